// AVX2: two groups of four nonces.
#include <immintrin.h>

#include "kernels.hpp"
#include "poseidon2_vector.hpp"
#include "search.hpp"

namespace {

struct Avx2 {
    using Vec [[gnu::vector_size(32), gnu::may_alias]] = uint64_t;
    static constexpr int lanes = 4, lockstep = 4;
    static constexpr uint64_t bias = uint64_t{1} << 63;  // there are signed comparisons only

    static Vec set(uint64_t value) { return Vec{} + value; }
    static Vec lane_numbers() { return Vec{0, 1, 2, 3}; }
    static Vec from(__m256i value) { return reinterpret_cast<Vec>(value); }
    static __m256i raw(Vec value) { return reinterpret_cast<__m256i>(value); }

    static Vec multiply(Vec a, Vec b) { return from(_mm256_mul_epu32(raw(a), raw(b))); }
    static Vec biased(Vec a) { return a ^ bias; }

    static Vec subtract(Vec a, Vec b) {
        const Vec difference = a - b;
        const __m256i borrow = _mm256_cmpgt_epi64(raw(difference), raw(a));
        return difference - from(_mm256_castpd_si256(_mm256_blendv_pd(_mm256_castsi256_pd(raw(set(bias))), _mm256_castsi256_pd(raw(set(bias + epsilon))), _mm256_castsi256_pd(borrow))));
    }

    static Vec carry_sum(Vec &u, Vec v, Vec high) {
        const Vec sum = high + (u >> 32);
        u = (u & epsilon) + v;
        return sum + (u >> 32);
    }

    static uint32_t not_above(Vec x, uint64_t limit) {
        const __m256i reversed = _mm256_set_epi64x(0x08090a0b0c0d0e0f, 0x0001020304050607, 0x08090a0b0c0d0e0f, 0x0001020304050607);
        const __m256i above_p = _mm256_cmpgt_epi64(raw(x ^ bias), raw(set((goldilocks_p - 1) ^ bias)));
        const __m256i value = _mm256_shuffle_epi8(_mm256_sub_epi64(raw(x), _mm256_and_si256(above_p, raw(set(goldilocks_p)))), reversed);
        const __m256i above = _mm256_cmpgt_epi64(raw(from(value) ^ bias), raw(set(limit ^ bias)));
        return 15u ^ static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(above)));
    }
};

}  // namespace

int search_poseidon2_avx2(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search<Poseidon2Vector<Avx2>>(job, start, count, control, tested);
}
