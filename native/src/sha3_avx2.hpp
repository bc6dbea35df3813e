// qpow-sha3 for four nonces at once, with AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct Avx2 {
    using Vector = uint64_t __attribute__((vector_size(32)));

    static Vector product(Vector a, uint64_t b) {
        return (Vector)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(static_cast<long long>(b)));
    }

    static Vector mask(Vector a, int bit) { return Vector{} - (a >> bit); }
    static Vector select(Vector mask, Vector a, Vector b) {
        return (Vector)_mm256_blendv_epi8((__m256i)a, (__m256i)b, (__m256i)mask);
    }

    static Vector swap_bytes(Vector v) {
        const __m256i order = _mm256_broadcastsi128_si256(_mm_set_epi64x(0x08090a0b0c0d0e0f, 0x0001020304050607));
        return (Vector)_mm256_shuffle_epi8((__m256i)v, order);
    }

    // The comparison treats its operands as signed.
    static uint32_t not_above(Vector a, Vector b) {
        constexpr uint64_t sign = uint64_t{1} << 63;
        const __m256i above = _mm256_cmpgt_epi64((__m256i)(a ^ sign), (__m256i)(b ^ sign));
        return ~static_cast<uint32_t>(_mm256_movemask_pd((__m256d)above)) & 15;
    }
};

}  // namespace
