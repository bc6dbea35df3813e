#include "sha3_avx512.hpp"
#include "sha3_probe_lanes.hpp"

const Sha3Probe sha3_avx512_probe = probe<Avx512>("sha3 avx512");
