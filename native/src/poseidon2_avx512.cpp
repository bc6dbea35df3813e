// AVX-512 F, DQ, BW: two groups of eight nonces.
#include <immintrin.h>

#include "kernels.hpp"
#include "poseidon2_vector.hpp"
#include "search.hpp"

namespace {

struct Avx512 {
    using Vec [[gnu::vector_size(64), gnu::may_alias]] = uint64_t;
    static constexpr int lanes = 8, lockstep = 4;
    static constexpr uint64_t bias = 0;

    static Vec set(uint64_t value) { return Vec{} + value; }
    static Vec lane_numbers() { return Vec{0, 1, 2, 3, 4, 5, 6, 7}; }
    static Vec from(__m512i value) { return reinterpret_cast<Vec>(value); }
    static __m512i raw(Vec value) { return reinterpret_cast<__m512i>(value); }

    static Vec multiply(Vec a, Vec b) { return from(_mm512_maskz_mul_epu32(0xff, raw(a), raw(b))); }
    static Vec biased(Vec a) { return a; }

    static Vec subtract(Vec a, Vec b) {
        const __m512i difference = raw(a - b);
        return from(_mm512_mask_sub_epi64(difference, _mm512_cmplt_epu64_mask(raw(a), raw(b)), difference, raw(set(epsilon))));
    }

    static Vec carry_sum(Vec &u, Vec v, Vec high) {
        u += v;
        const Vec sum = high + (u >> 32);
        return from(_mm512_mask_add_epi64(raw(sum), _mm512_cmplt_epu64_mask(raw(u), raw(v)), raw(sum), raw(set(uint64_t{1} << 32))));
    }

    static uint32_t not_above(Vec x, uint64_t limit) {
        const __m512i reversed = _mm512_set_epi64(0x08090a0b0c0d0e0f, 0x0001020304050607, 0x08090a0b0c0d0e0f, 0x0001020304050607,
            0x08090a0b0c0d0e0f, 0x0001020304050607, 0x08090a0b0c0d0e0f, 0x0001020304050607);
        const __m512i least = _mm512_maskz_min_epu64(0xff, raw(x), raw(x - goldilocks_p));
        return _mm512_cmple_epu64_mask(_mm512_shuffle_epi8(least, reversed), raw(set(limit)));
    }
};

}  // namespace

int search_poseidon2_avx512(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search<Poseidon2Vector<Avx512>>(job, start, count, control, tested);
}
