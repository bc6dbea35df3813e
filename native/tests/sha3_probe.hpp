// The arithmetic of the vector kernels of qpow-sha3 for kernel_check.cpp, which is not compiled for their instructions.
#pragma once

#include <cstdint>

#include "wide.hpp"

struct Sha3Probe {
    const char *name;
    int lanes;  // 8 at most
    // In every lane: y <- y * w mod n; y, w < n, n odd.
    void (*multiply)(U512 *y, const U512 &w, const U512 &n);
    // The 64 most significant bits of SHA3-512 of every lane.
    void (*sha3_512_top)(uint64_t *top, const U512 *y);
};

extern const Sha3Probe sha3_avx2_probe, sha3_avx512bw_probe, sha3_avx512_probe;
