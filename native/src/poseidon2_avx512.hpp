// Eight lanes with AVX-512 F and BW, for poseidon2_vector.hpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "goldilocks.hpp"

namespace {

struct Avx512 {
    using Vec __attribute__((vector_size(64))) = uint64_t;
    static constexpr int lanes = 8, lockstep = 4;
    static constexpr uint64_t bias = 0;

    static Vec set(uint64_t value) { return Vec{} + value; }
    static Vec lane_numbers() { return Vec{0, 1, 2, 3, 4, 5, 6, 7}; }
    static Vec high(Vec a) { return a >> 32; }

    // gcc 12 warns of the undefined vector in the unmasked intrinsics. With all lanes, the masked ones are the same.
    static Vec multiply(Vec a, Vec b) { return (Vec)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b); }

    static Vec add_halves(Vec a) { return (a & epsilon) + (a >> 32); }
    static Vec low_plus(Vec a, uint64_t n) {  // (a & epsilon) | n
        return (Vec)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)set(epsilon), (__m512i)set(n), 0xea);
    }
    static Vec biased(Vec a) { return a; }

    // Adding p is subtracting 2^32 - 1, modulo 2^64.
    static Vec subtract(Vec a, Vec b) {
        const __m512i difference = (__m512i)(a - b);
        const __mmask8 borrow = _mm512_cmplt_epu64_mask((__m512i)a, (__m512i)b);
        return (Vec)_mm512_mask_sub_epi64(difference, borrow, difference, (__m512i)set(epsilon));
    }

    // The carry of a + b weighs 2^32 once shifted.
    static Vec add_carry(Vec &a, Vec b, Vec high) {
        a += b;
        const __m512i sum = (__m512i)(high + (a >> 32));
        const __mmask8 carry = _mm512_cmplt_epu64_mask((__m512i)a, (__m512i)b);
        return (Vec)_mm512_mask_add_epi64(sum, carry, sum, (__m512i)set(uint64_t{1} << 32));
    }

    static uint32_t not_above(Vec x, uint64_t target) {
        constexpr uint64_t even = 0x0001020304050607, odd = 0x08090a0b0c0d0e0f;
        const Vec reversed{even, odd, even, odd, even, odd, even, odd};
        // x - p wraps if x < p.
        const __m512i canonical = _mm512_maskz_min_epu64(0xff, (__m512i)x, (__m512i)(x - goldilocks_p));
        return _mm512_cmple_epu64_mask(_mm512_shuffle_epi8(canonical, (__m512i)reversed), (__m512i)set(target));
    }
};

}  // namespace
