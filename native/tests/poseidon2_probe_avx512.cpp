#include "poseidon2_avx512.hpp"
#include "poseidon2_probe_lanes.hpp"

const Poseidon2Probe poseidon2_avx512_probe = probe<Avx512>("poseidon2 avx512");
