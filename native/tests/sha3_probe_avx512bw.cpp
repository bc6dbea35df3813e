#include "sha3_avx512bw.hpp"
#include "sha3_limbs29.hpp"
#include "sha3_probe_lanes.hpp"

const Sha3Probe sha3_avx512bw_probe = probe<Limbs29<Avx512bw>>("sha3 avx512bw");
