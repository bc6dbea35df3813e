// The arithmetic of the vector kernels of qpow-poseidon2 for kernel_check.cpp, which is not compiled for their
// instructions. Arrays have a number for every lane; lanes <= 8.
#pragma once

#include <cstdint>

struct Poseidon2Probe {
    const char *name;
    int lanes;
    void (*square)(uint64_t *x);
    void (*multiply)(uint64_t *x, const uint64_t *y);
    void (*limb_product)(uint64_t *low, uint64_t *high);  // of x and y, which it replaces
    void (*recombine)(uint64_t *low, const uint64_t *high, uint64_t constant);
    // One internal round with the offsets of element 0 in round 0: x[12][lanes]. x[0] is already its seventh power.
    void (*linear_layer)(uint64_t *x);
    void (*external_step)(uint64_t *x);  // of all x[12][lanes], with constants 0
    uint32_t (*not_above)(const uint64_t *x, uint64_t target);
};

extern const Poseidon2Probe poseidon2_avx2_probe, poseidon2_avx512vl_probe, poseidon2_avx512_probe, poseidon2_neon_probe;
