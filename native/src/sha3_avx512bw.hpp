// qpow-sha3 for eight nonces at once, with AVX-512 F and BW: all but the product.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "keccak.hpp"

namespace {

using Vector512 = uint64_t __attribute__((vector_size(64)));

template <>
inline Vector512 exclusive_or(Vector512 a, Vector512 b, Vector512 c) {
    return (Vector512)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
}

template <>
inline Vector512 chi(Vector512 a, Vector512 b, Vector512 c) {
    return (Vector512)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0xd2);
}

struct Avx512bw {
    using Vector = Vector512;

    static Vector product(Vector a, uint64_t b) {
        return (Vector)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64(static_cast<long long>(b)));
    }

    static __mmask8 mask(Vector a, int bit) {
        return _mm512_test_epi64_mask((__m512i)a, _mm512_set1_epi64(1LL << bit));
    }
    static Vector select(__mmask8 mask, Vector a, Vector b) {
        return (Vector)_mm512_mask_mov_epi64((__m512i)a, mask, (__m512i)b);
    }

    static Vector swap_bytes(Vector v) {
        const __m512i order = _mm512_set4_epi64(0x08090a0b0c0d0e0f, 0x0001020304050607, 0x08090a0b0c0d0e0f,
                                                0x0001020304050607);
        return (Vector)_mm512_shuffle_epi8((__m512i)v, order);
    }

    static uint32_t not_above(Vector a, Vector b) {
        __mmask8 mask = _mm512_cmple_epu64_mask((__m512i)a, (__m512i)b);
        // Moves the mask to an integer register: gcc 12 may store it as one byte and load it, widened, as four.
        __asm__("" : "+r"(mask));
        return mask;
    }
};

}  // namespace
