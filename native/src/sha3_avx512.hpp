// qpow-sha3 for eight nonces at once, with AVX-512 F, BW and IFMA.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "sha3_avx512bw.hpp"
#include "sha3_lanes.hpp"

namespace {

struct Avx512 : Avx512bw {
    // vpmadd52luq and vpmadd52huq multiply the low 52 bits of their operands and add 52 bits of the product.
    static constexpr int bits = 52, limbs = 10;

    static void multiply(Vector (&y)[limbs], const Factor<bits, limbs> &factor) {
        // q, from columns 9 to 19 of y * W. A column is at most 19 numbers below 2^52, so with its carry it is less
        // than 2^57. Columns 0 to 8 sum to less than 19 * 2^(52 * 9 + 1) < R / 2.
        Vector q[limbs + 1]{};
        unroll<limbs>([&](auto i) QM_INLINE {
            unroll<limbs>([&](auto j) QM_INLINE {
                constexpr int column = i + j;
                if constexpr (column >= 9) q[column - 9] = low(q[column - 9], y[i], factor.quotient[j]);
                if constexpr (column >= 8) q[column - 8] = high(q[column - 8], y[i], factor.quotient[j]);
            });
        });
        unroll<limbs>([&](auto i) QM_INLINE { q[i + 1] += q[i] >> bits; });

        // Columns 0 to 9 of y * w + q * (R - n), each less than 38 * 2^52 < 2^58, carries included.
        Vector r[limbs]{};
        unroll<limbs>([&](auto i) QM_INLINE {
            unroll<limbs - i>([&](auto j) QM_INLINE {
                r[i + j] = low(r[i + j], y[i], factor.product[j]);
                if constexpr (i + j < 9) r[i + j + 1] = high(r[i + j + 1], y[i], factor.product[j]);
            });
        });
        unroll<limbs>([&](auto i) QM_INLINE {
            unroll<limbs - i>([&](auto j) QM_INLINE {
                r[i + j] = low(r[i + j], q[i + 1], factor.modulus[j]);
                if constexpr (i + j < 9) r[i + j + 1] = high(r[i + j + 1], q[i + 1], factor.modulus[j]);
            });
        });

        // less = r - n modulo R: negative, that is at least R - n > R / 2, or less than n < R / 2.
        Vector less[limbs];
        unroll<limbs>([&](auto i) QM_INLINE { less[i] = r[i] + factor.modulus[i]; });
        unroll<limbs - 1>([&](auto i) QM_INLINE {
            r[i + 1] += r[i] >> bits;
            less[i + 1] += less[i] >> bits;
        });
        const __mmask8 negative = mask(less[limbs - 1], bits - 1);
        unroll<limbs>([&](auto i) QM_INLINE { y[i] = select(negative, less[i], r[i]) & factor.limb_mask; });
    }

  private:
    // sum + the low or high 52 bits of a product.
    static Vector low(Vector sum, Vector a, uint64_t b) {
        return (Vector)_mm512_madd52lo_epu64((__m512i)sum, (__m512i)a, _mm512_set1_epi64(static_cast<long long>(b)));
    }
    static Vector high(Vector sum, Vector a, uint64_t b) {
        return (Vector)_mm512_madd52hi_epu64((__m512i)sum, (__m512i)a, _mm512_set1_epi64(static_cast<long long>(b)));
    }
};

}  // namespace
