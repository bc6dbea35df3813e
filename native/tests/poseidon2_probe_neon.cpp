#include "poseidon2_neon.hpp"
#include "poseidon2_probe_lanes.hpp"

const Poseidon2Probe poseidon2_neon_probe = probe<Neon>("poseidon2 neon");
