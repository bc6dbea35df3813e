#include "poseidon2_avx2.hpp"
#include "poseidon2_pair.hpp"
#include "poseidon2_probe_lanes.hpp"

const Poseidon2Probe poseidon2_avx2_probe = probe<Pair<Avx2>>("poseidon2 avx2");
