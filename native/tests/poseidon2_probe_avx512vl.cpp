#include "poseidon2_avx512vl.hpp"
#include "poseidon2_probe_lanes.hpp"

const Poseidon2Probe poseidon2_avx512vl_probe = probe<Avx512vl>("poseidon2 avx512vl");
