// qpow-sha3 for four nonces at once, with AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "sha3_lanes.hpp"

namespace {

struct Avx2 {
    using Vector = uint64_t __attribute__((vector_size(32)));
    // vpmuludq multiplies the low 32 bits of its operands. With 29 bits, 36 products and a carry fit in a lane.
    static constexpr int bits = 29, limbs = 18;

    static void multiply(Vector (&y)[limbs], const Factor<bits, limbs> &factor) {
        // q, from columns 16 to 35 of y * W: at most 18 products below 2^58 and a carry, less than 2^63.
        // Columns 0 to 15 sum to less than 16 * 2^58 * 2^(29 * 15 + 1) < R / 2 = 2^521.
        Vector q[limbs], carry{};
        unroll<10>([&](auto i) QM_INLINE {
            constexpr int column = 16 + 2 * i;
            Vector sum = carry, next{};
            add_columns<column>(sum, next, y, factor.quotient);
            next += sum >> bits;
            carry = next >> bits;
            if constexpr (column >= limbs) {
                q[column - limbs] = sum & factor.limb_mask;
                q[column - limbs + 1] = next & factor.limb_mask;
            }
        });

        // Columns 0 to 17 of y * w + q * (R - n): at most 36 products below 2^58 and a carry, less than 2^64.
        Vector r[limbs];
        carry = Vector{};
        unroll<limbs / 2>([&](auto i) QM_INLINE {
            constexpr int column = 2 * i;
            Vector sum = carry, next{};
            add_columns<column>(sum, next, y, factor.product);
            add_columns<column>(sum, next, q, factor.modulus);
            next += sum >> bits;
            carry = next >> bits;
            r[column] = sum & factor.limb_mask;
            r[column + 1] = next & factor.limb_mask;
        });

        // less = r - n modulo R: negative, that is at least R - n > R / 2, or less than n < R / 2.
        Vector less[limbs];
        carry = Vector{};
        unroll<limbs>([&](auto i) QM_INLINE {
            carry += r[i] + factor.modulus[i];
            less[i] = carry & factor.limb_mask;
            carry >>= bits;
        });
        const Vector negative = Vector{} - (less[limbs - 1] >> (bits - 1));
        unroll<limbs>([&](auto i) QM_INLINE {
            y[i] = (Vector)_mm256_blendv_epi8((__m256i)less[i], (__m256i)r[i], (__m256i)negative);
        });
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

  private:
    // Adds two neighbouring columns of a * b, which share their loads.
    template <int column>
    QM_INLINE static void add_columns(Vector &first, Vector &second, const Vector (&a)[limbs],
                                      const uint64_t (&b)[limbs]) {
        unroll<limbs>([&](auto i) QM_INLINE {
            constexpr int j = column - i;
            if constexpr (j >= 0 && j < limbs) first += product(a[i], b[j]);
            if constexpr (j >= -1 && j < limbs - 1) second += product(a[i], b[j + 1]);
            // Adds product by product: gcc would compute all products of a column first and run out of registers.
            __asm__("" : "+x"(first), "+x"(second));
        });
    }

    static Vector product(Vector a, uint64_t b) {
        return (Vector)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(static_cast<long long>(b)));
    }
};

}  // namespace
