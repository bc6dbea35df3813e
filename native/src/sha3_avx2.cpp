// Four nonces at once with AVX2.
#include <immintrin.h>

#include "kernels.hpp"
#include "search.hpp"
#include "sha3_lanes.hpp"

namespace {

struct Avx2 {
    using Vector = uint64_t __attribute__((vector_size(32)));
    // vpmuludq multiplies the low 32 bits of its operands. With 29 a column of 36 products and a carry fits a lane.
    static constexpr int bits = 29, limbs = 18;

    static void multiply(Vector (&y)[limbs], const Factor<bits, limbs> &factor) {
        // q, from columns 16 to 34 of y * W: at most 18 products below 2^58 and a carry, less than 2^63.
        // Columns 0 to 15 sum to less than 16 * 2^58 * 2^(29 * 15 + 1) < R / 2 = 2^521.
        Vector q[limbs], carry{};
        unroll<2 * limbs - 16>([&](auto i) {
            constexpr int column = i + 16;
            Vector sum = carry;
            unroll<limbs>([&](auto j) {
                if constexpr (column - j >= 0 && column - j < limbs)
                    sum += product(y[j], factor.quotient[column - j]);
            });
            if constexpr (column >= limbs) q[column - limbs] = sum & factor.limb_mask;
            carry = sum >> bits;
        });

        // Columns 0 to 17 of y * w + q * (R - n): at most 36 products below 2^58 and a carry, less than 2^64.
        // less = r - n modulo R: negative, that is at least R - n > R / 2, or less than n < R / 2.
        Vector r[limbs], less[limbs], borrow{};
        carry = Vector{};
        unroll<limbs>([&](auto column) {
            Vector sum = carry;
            unroll<column + 1>([&](auto j) {
                sum += product(y[j], factor.product[column - j]);
                sum += product(q[j], factor.modulus[column - j]);
            });
            r[column] = sum & factor.limb_mask;
            carry = sum >> bits;
            borrow += r[column] + factor.modulus[column];
            less[column] = borrow & factor.limb_mask;
            borrow >>= bits;
        });
        const Vector negative = Vector{} - (less[limbs - 1] >> (bits - 1));
        unroll<limbs>([&](auto i) {
            y[i] = (Vector)_mm256_blendv_epi8((__m256i)less[i], (__m256i)r[i], (__m256i)negative);
        });
    }

    static Vector swap_bytes(Vector v) {
        const __m256i order = _mm256_broadcastsi128_si256(_mm_set_epi64x(0x08090a0b0c0d0e0f, 0x0001020304050607));
        return (Vector)_mm256_shuffle_epi8((__m256i)v, order);
    }

    // The comparison is one of signed numbers.
    static uint32_t not_above(Vector a, Vector b) {
        constexpr uint64_t sign = uint64_t{1} << 63;
        const __m256i above = _mm256_cmpgt_epi64((__m256i)(a ^ sign), (__m256i)(b ^ sign));
        return ~static_cast<uint32_t>(_mm256_movemask_pd((__m256d)above)) & 15;
    }

  private:
    static Vector product(Vector a, uint64_t b) {
        return (Vector)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(static_cast<long long>(b)));
    }
};

}  // namespace

int search_sha3_avx2(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search<Sha3Lanes<Avx2>>(job, start, count, control, tested);
}
