#include "sha3_avx2.hpp"
#include "sha3_limbs29.hpp"
#include "sha3_probe_lanes.hpp"

const Sha3Probe sha3_avx2_probe = probe<Limbs29<Avx2>>("sha3 avx2");
