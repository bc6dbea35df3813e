// Four lanes with AVX2, for poseidon2_vector.hpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "goldilocks.hpp"

namespace {

struct Avx2 {
    using Vec __attribute__((vector_size(32))) = uint64_t;
    static constexpr int lanes = 4, lockstep = 4;
    // AVX2 compares only signed numbers: a < b of unsigned numbers is a - 2^63 < b - 2^63 of signed ones.
    static constexpr uint64_t bias = uint64_t{1} << 63;

    static Vec set(uint64_t value) { return Vec{} + value; }
    static Vec lane_numbers() { return Vec{0, 1, 2, 3}; }
    static Vec high(Vec a) { return a >> 32; }
    static Vec multiply(Vec a, Vec b) { return (Vec)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
    static Vec add_halves(Vec a) { return (a & epsilon) + (a >> 32); }
    static Vec low_plus(Vec a, uint64_t n) { return (Vec)_mm256_blend_epi32((__m256i)a, (__m256i)set(n), 0xaa); }
    static Vec biased(Vec a) { return a ^ bias; }

    // a - b borrowed if it wrapped to more than a. Then p must be added, which is -(2^32 - 1) modulo 2^64. The same
    // step removes the bias. Selecting with vpermilpd is one micro-operation, vblendvpd up to three.
    static Vec subtract(Vec a, Vec b) {
        const Vec difference = a - b;
        const __m256i borrow = _mm256_cmpgt_epi64((__m256i)difference, (__m256i)a);
        constexpr Vec less{bias, bias + epsilon, bias, bias + epsilon};
        return difference - (Vec)_mm256_permutevar_pd((__m256d)less, borrow);
    }

    // Uses halves, so nothing carries: a1 + 2^32 - 1 easily fits in a word.
    static Vec add_carry(Vec &a, Vec b, Vec high) {
        high += a >> 32;
        a = (a & epsilon) + b;
        return high + (a >> 32);
    }

    static uint32_t not_above(Vec x, uint64_t target) {
        constexpr uint64_t even = 0x0001020304050607, odd = 0x08090a0b0c0d0e0f;
        const Vec reversed{even, odd, even, odd};
        const Vec not_canonical = (Vec)_mm256_cmpgt_epi64((__m256i)(x ^ bias), (__m256i)set((goldilocks_p - 1) ^ bias));
        const Vec canonical = x - (not_canonical & goldilocks_p);
        const Vec top = (Vec)_mm256_shuffle_epi8((__m256i)canonical, (__m256i)reversed);
        const __m256i above = _mm256_cmpgt_epi64((__m256i)(top ^ bias), (__m256i)set(target ^ bias));
        return 15u ^ static_cast<uint32_t>(_mm256_movemask_pd((__m256d)above));
    }
};

}  // namespace
