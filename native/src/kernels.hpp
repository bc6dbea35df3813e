// The searches in the kernel table of dispatch.cpp, one from each kernel file.
#pragma once

#include <cstdint>

#include "quantus_miner.h"
#include "wide.hpp"

using Search = int(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested);

Search search_poseidon2_baseline;
Search search_poseidon2_scalar;
Search search_poseidon2_avx2;
Search search_poseidon2_avx512vl;
Search search_poseidon2_avx512x2;
Search search_poseidon2_avx512;
Search search_poseidon2_neon;
Search search_sha3_baseline;
Search search_sha3_scalar;
Search search_sha3_avx2;
Search search_sha3_avx512bw;
Search search_sha3_avx512;
