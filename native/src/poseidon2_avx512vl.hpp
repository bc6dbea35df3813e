// Four lanes with AVX-512 F, DQ and VL in registers of 256 bits, for poseidon2_vector.hpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "goldilocks.hpp"

namespace {

struct Avx512vl {
    using Vec __attribute__((vector_size(32))) = uint64_t;
    static constexpr int lanes = 4, lockstep = 4;
    static constexpr uint64_t bias = 0;

    static Vec set(uint64_t value) { return Vec{} + value; }
    static Vec lane_numbers() { return Vec{0, 1, 2, 3}; }
    static Vec high(Vec a) { return a >> 32; }
    static Vec multiply(Vec a, Vec b) { return (Vec)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
    static Vec add_halves(Vec a) { return (a & epsilon) + (a >> 32); }
    static Vec low_plus(Vec a, uint64_t n) {
        return (Vec)_mm256_ternarylogic_epi64((__m256i)a, (__m256i)set(epsilon), (__m256i)set(n), 0xea);
    }
    static Vec biased(Vec a) { return a; }

    static Vec subtract(Vec a, Vec b) {
        const __m256i difference = (__m256i)(a - b);
        const __mmask8 borrow = _mm256_cmplt_epu64_mask((__m256i)a, (__m256i)b);
        return (Vec)_mm256_mask_sub_epi64(difference, borrow, difference, (__m256i)set(epsilon));
    }

    static Vec add_carry(Vec &a, Vec b, Vec high) {
        a += b;
        const __m256i sum = (__m256i)(high + (a >> 32));
        const __mmask8 carry = _mm256_cmplt_epu64_mask((__m256i)a, (__m256i)b);
        return (Vec)_mm256_mask_add_epi64(sum, carry, sum, (__m256i)set(uint64_t{1} << 32));
    }

    static uint32_t not_above(Vec x, uint64_t target) {
        constexpr uint64_t even = 0x0001020304050607, odd = 0x08090a0b0c0d0e0f;
        const Vec reversed{even, odd, even, odd};
        const __m256i canonical = _mm256_min_epu64((__m256i)x, (__m256i)(x - goldilocks_p));
        return _mm256_cmple_epu64_mask(_mm256_shuffle_epi8(canonical, (__m256i)reversed), (__m256i)set(target));
    }
};

}  // namespace
