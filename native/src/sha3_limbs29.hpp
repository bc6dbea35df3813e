// The product of qpow-sha3 in limbs of 29 bits, for instruction sets whose widest product is of 32 bits.
#pragma once

#include <cstdint>

#include "sha3_lanes.hpp"

namespace {

// V has Vector, and
//     product(a, b)            the low halves of the lanes of a, times b < 2^32
//     mask(a, bit)             the lanes with that bit set; a < 2^(bit + 1)
//     select(mask, a, b)       b in the lanes of the mask, a in the others
template <class V>
struct Limbs29 : V {
    using Vector = typename V::Vector;
    // With 29 bits, 36 products and a carry fit in a lane.
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
        const auto negative = V::mask(less[limbs - 1], bits - 1);
        unroll<limbs>([&](auto i) QM_INLINE { y[i] = V::select(negative, less[i], r[i]); });
    }

  private:
    // Adds two neighbouring columns of a * b, which share their loads.
    template <int column>
    QM_INLINE static void add_columns(Vector &first, Vector &second, const Vector (&a)[limbs],
                                      const uint64_t (&b)[limbs]) {
        unroll<limbs>([&](auto i) QM_INLINE {
            constexpr int j = column - i;
            if constexpr (j >= 0 && j < limbs) first += V::product(a[i], b[j]);
            if constexpr (j >= -1 && j < limbs - 1) second += V::product(a[i], b[j + 1]);
            // Adds product by product: gcc would compute all products of a column first and run out of registers.
            __asm__("" : "+v"(first), "+v"(second));
        });
    }
};

}  // namespace
