#include "sha3_avx2.hpp"
#include "sha3_probe_lanes.hpp"

const Sha3Probe sha3_avx2_probe = probe<Avx2>("sha3 avx2");
