// qpow-poseidon2 with one nonce per vector lane: the code that all instruction sets share. Exact for every nonce.
//
// Products are reduced by Montgomery's method, which clears low digits instead of folding high ones: p = 1 modulo
// 2^32, so l p has the low digit l, and no multiplication is needed to clear it. The result is one difference of two
// non-negative numbers, with one correction. Folding 2^96 = -1 down can end below 0 or above 2^64 and needs two.
//
// An instruction set V has Vec, unsigned 64-bit lanes with + - & << >>, and
//     lanes, lockstep          number in a Vec; number of S-boxes computed at the same time
//     set(n), lane_numbers()   all lanes n; 0, 1, 2, ...
//     high(a)                  a >> 32, possibly of another type; only for multiply
//     multiply(a, b)           the products of the low halves of the lanes
//     add_halves(a)            a0 + a1
//     low_plus(a, n)           a0 + n, n a multiple of 2^32
//     bias, biased(a)          the number (modulo 2^64) to add to the first operand of subtract; a + bias
//     subtract(a + bias, b)    a - b, plus p if that is negative; a any, b <= p
//     add_carry(a, b, high)    sets a to a number with the low half of a + b, returns high + (a + b >> 32); that
//                              must be < 2^64, a + b itself may be 2^64 and more; b a product of halves
//     not_above(x, target)     bit i: canonical x of lane i with its bytes reversed is <= target
// a0 and a1 are the low and the high half of a, M = 2^32 - 1. A product of halves is at most M^2 = 2^64 - 2^33 + 1.
#pragma once

#include <cstdint>
#include <utility>

#include "poseidon2.hpp"
#include "poseidon2_span.hpp"
#include "poseidon2_vector_constants.hpp"
#include "quantus_miner.h"

// gcc schedules a step as a whole only if all of it is one function.
#define QM_INLINE [[gnu::always_inline]] inline

namespace {

// W any, l0 <= M, v any. Returns W - l0 - M v0 modulo p, any; l0 + M v0 <= M + M^2 = p - 1.
template <class V, class Vec = typename V::Vec>
QM_INLINE Vec montgomery(Vec W, Vec v, Vec l0) {
    return V::subtract(V::biased(W), l0 + V::multiply(v, V::set(epsilon)));
}

// x any. Returns x^2 / 2^64, any.
// x^2 = l + 2^33 m + 2^64 h with l = x0^2, m = x0 x1, h = x1^2. Less l0 p it is 2^32 v + 2^64 (h - l0) with
// v = 2 m + t, t = l0 + l1. Less 2^32 v0 p, that is 2^64 (h + (v >> 32) - l0 + v0 - 2^32 v0).
// v may have 65 bits, but v >> 32 = (m + (t >> 1)) >> 31, and as m + (t >> 1) <= M^2 + M = 2^32 M, it is at most 2 M.
// So h + (v >> 32) <= M^2 + 2 M = 2^64 - 1.
template <class V, class Vec = typename V::Vec>
QM_INLINE Vec square(Vec x) {
    const auto x1 = V::high(x);
    const Vec l = V::multiply(x, x), m = V::multiply(x, x1), h = V::multiply(x1, x1);
    const Vec l0 = l & epsilon, t = V::add_halves(l);
    return montgomery<V>(h + ((m + (t >> 1)) >> 31), m + m + t, l0);
}

// x, y any. Returns x y / 2^64, any.
// As above with v = m + n + t, m = x0 y1, n = x1 y0: m + t <= M^2 + 2 M = 2^64 - 1 fits, v >> 32 <= 2 M as before.
template <class V, class Vec = typename V::Vec>
QM_INLINE Vec multiply(Vec x, Vec y) {
    const auto x1 = V::high(x), y1 = V::high(y);
    const Vec l = V::multiply(x, y), m = V::multiply(x, y1), n = V::multiply(x1, y), h = V::multiply(x1, y1);
    const Vec l0 = l & epsilon;
    Vec v = m + V::add_halves(l);
    const Vec W = V::add_carry(v, n, h);
    return montgomery<V>(W, v, l0);
}

// x, y any. Sets low + 2^32 high to x y + product_bias modulo p, 0 < low < 2^34, high <= 2 M.
// x y = l0 + 2^32 v0 + 2^64 W, W = W0 + 2^32 W1; 2^64 W0 = 2^32 W0 - W0, 2^96 W1 = -W1. The bias exceeds W0 + W1.
template <class V, class Vec = typename V::Vec>
QM_INLINE void limb_product(Vec x, Vec y, Vec &low, Vec &high) {
    const auto x1 = V::high(x), y1 = V::high(y);
    const Vec l = V::multiply(x, y), m = V::multiply(x, y1), n = V::multiply(x1, y), h = V::multiply(x1, y1);
    Vec v = m + (l >> 32);
    const Vec W = V::add_carry(v, n, h);
    low = V::low_plus(l, product_bias) - V::add_halves(W);
    high = (v & epsilon) + (W & epsilon);
}

// low < 2^63, high < 2^44, constant <= recombine_bound. Returns (low + 2^32 high) / 2^32 + constant, any.
// 1 / 2^32 = -M, so the result is high + low1 - M low0 + constant, where high + low1 + constant < 2^64 and M low0 < p.
template <class V, class Vec = typename V::Vec>
QM_INLINE Vec recombine(Vec low, Vec high, uint64_t constant) {
    return V::subtract(high + (low >> 32) + V::set(constant + V::bias), V::multiply(low, V::set(epsilon)));
}

// x any. Returns x^7 / 2^384 = x^7: (x^2 / 2^64 times x, / 2^64) times ((x^2 / 2^64)^2 / 2^64), / 2^64.
template <class V, class Vec = typename V::Vec>
QM_INLINE Vec vector_seventh_power(Vec x) {
    const Vec x2 = square<V>(x);
    return multiply<V>(multiply<V>(x, x2), square<V>(x2));
}

// x any. low and high as limb_product gives them, of x^7 / 2^320 for each element.
template <class V, int count, class Vec = typename V::Vec>
QM_INLINE void limbs_of_seventh_powers(const Vec (&x)[count], Vec (&low)[count], Vec (&high)[count]) {
    constexpr int n = V::lockstep;
    static_assert(count % n == 0);
#pragma GCC unroll 1
    for (int first = 0; first < count; first += n) {
        Vec x2[n], x3[n], x4[n];
        for (int i = 0; i < n; ++i) x2[i] = square<V>(x[first + i]);
        for (int i = 0; i < n; ++i) x3[i] = multiply<V>(x[first + i], x2[i]);
        for (int i = 0; i < n; ++i) x4[i] = square<V>(x2[i]);
        for (int i = 0; i < n; ++i) limb_product<V>(x3[i], x4[i], low[first + i], high[first + i]);
    }
}

// The external matrix on one limb of all elements, in 64-bit arithmetic; its rows add up to 28. As external_layer.
template <class Vec>
QM_INLINE void limb_layer(Vec (&x)[width]) {
    for (int i = 0; i < width; i += 4) {
        const Vec pair01 = x[i] + x[i + 1], pair23 = x[i + 2] + x[i + 3], all = pair01 + pair23;
        const Vec all1 = all + x[i + 1], all3 = all + x[i + 3];
        x[i + 3] = all3 + (x[i] + x[i]);
        x[i + 1] = all1 + (x[i + 2] + x[i + 2]);
        x[i] = all1 + pair01;
        x[i + 2] = all3 + pair23;
    }
    for (int i = 0; i < 4; ++i) {
        const Vec sum = x[i] + x[i + 4] + x[i + 8];
        for (int j = i; j < width; j += 4) x[j] += sum;
    }
}

// Row 0 of the external matrix, on one limb.
template <class Vec>
QM_INLINE Vec limb_row0(const Vec (&x)[width]) {
    Vec sum[4];
    for (int i = 0; i < 4; ++i) sum[i] = x[i] + x[i] + x[i + 4] + x[i + 8];
    const Vec pair = sum[0] + sum[1];
    return pair + pair + sum[1] + sum[2] + sum[3];  // 2, 3, 1, 1
}

// The nonces of one vector.
template <class V>
struct Group {
    using Vec = typename V::Vec;
    Vec x[width];
    Vec sum, sum1;        // internal rounds: x[1] + ... + x[11] modulo 2^64, and the same of their high halves
    Vec low[2], high[2];  // internal rounds: passed from add_sum to scale_elements
};

// S-boxes, layer, and the constants of the next round. Elements any.
template <class V>
[[gnu::noinline]] void external_step(Group<V> &group, const uint64_t (&next)[width]) {
    typename V::Vec low[width], high[width];
    limbs_of_seventh_powers<V>(group.x, low, high);
    limb_layer(low);   // < 28 * 2^34
    limb_layer(high);  // < 56 * 2^32
    for (int i = 0; i < width; ++i) group.x[i] = recombine<V>(low[i], high[i], next[i]);
}

// a x0 + b x1 + offset. Modulo 2^64; with fits(), that is the number itself.
template <class V, int64_t a, int64_t b, class Vec>
QM_INLINE Vec digit_sum(Vec x, Vec offset) {
    const Vec ax = V::multiply(x, V::set(static_cast<uint64_t>(a < 0 ? -a : a)));
    const Vec bx = V::multiply(V::high(x), V::set(static_cast<uint64_t>(b < 0 ? -b : b)));
    const Vec sum = a < 0 ? offset - ax : offset + ax;
    return b < 0 ? sum - bx : sum + bx;
}

// x any, low and high such that the sums are as low_fits and high_fits say; high is biased.
// Returns d x + low / 2^32 + high, any: (L + 2^32 H) / 2^32 = H + L1 - M L0, where H + L1 < 2^64 and M L0 < p.
template <class V, int i, class Vec>
QM_INLINE Vec diagonal_product(Vec x, Vec low, Vec high) {
    constexpr Entry e = diagonal.entry[i];
    low = digit_sum<V, e.a0, e.b0>(x, low);
    high = digit_sum<V, e.a1, e.b1>(x, high);
    return V::subtract(high + (low >> 32), V::multiply(low, V::set(epsilon)));
}

template <class V>
QM_INLINE void start_sums(Group<V> &g) {
    g.sum = g.sum1 = V::set(0);
}

template <class V>
QM_INLINE void count_element(Group<V> &g, int i) {
    g.sum += g.x[i];
    g.sum1 += g.x[i] >> 32;
}

// The end of an internal round: elements 1 .. 11.
template <class V, int... i>
QM_INLINE void scale_elements(Group<V> &g, std::integer_sequence<int, 0, i...>) {
    start_sums(g);
    ((g.x[i] = diagonal_product<V, i>(g.x[i], g.low[diagonal.entry[i].low], g.high[diagonal.entry[i].high]),
      count_element(g, i)),
     ...);
}

// The middle of an internal round: sums power, the former element 0, and the others, then computes the new element 0.
// The sum is s0 + 2^32 s1 with s0, s1 <= 12 M: s1 is summed, s0 is the rest of the sum modulo 2^64. For
// diagonal_product, 2^32 (s0 + 2^32 s1) = 2^32 (s0 + s1) - s1, and s0 + s1 <= 24 M < sum_bound.
template <class V, class Vec = typename V::Vec>
QM_INLINE void add_sum(Group<V> &g, Vec power, uint64_t low0, uint64_t high0) {
    const Vec s1 = g.sum1 + (power >> 32);
    const Vec s = g.sum + power - (s1 << 32) + s1;
    for (int k = 0; k < 2; ++k) {
        g.low[k] = V::set(low_offset[k]) - s1;
        g.high[k] = s + V::set(high_offset[k] + V::bias);
    }
    g.x[0] = diagonal_product<V, 0>(power, V::set(low0) - s1, s + V::set(high0 + V::bias));
}

// Half a round of each group: interleaves the serial S-box of one with the independent products of the other.
template <class V>
[[gnu::noinline]] void internal_step(Group<V> &power, Group<V> &linear, uint64_t low0, uint64_t high0) {
    const auto x7 = vector_seventh_power<V>(power.x[0]);
    scale_elements<V>(linear, std::make_integer_sequence<int, width>{});
    add_sum<V>(power, x7, low0, high0);
}

template <class V>
[[gnu::noinline]] void internal_part(Group<V> &a, Group<V> &b, const Constants &c) {
    for (Group<V> *g : {&a, &b}) {
        start_sums(*g);
        for (int i = 1; i < width; ++i) count_element(*g, i);
    }
    add_sum<V>(a, vector_seventh_power<V>(a.x[0]), c.low0[0], c.high0[0]);
    for (int r = 0;; ++r) {
        internal_step<V>(b, a, c.low0[r], c.high0[r]);
        if (r + 1 == internal_rounds) break;
        internal_step<V>(a, b, c.low0[r + 1], c.high0[r + 1]);
    }
    scale_elements<V>(b, std::make_integer_sequence<int, width>{});
    for (Group<V> *g : {&a, &b})
        for (int i = 0; i < width; ++i) g->x[i] = V::subtract(V::biased(g->x[i]), V::set(c.after_internal[i]));
}

// The rounds from the second on, except for the S-boxes and the layer of the last one.
template <class V>
void rounds_after_first(Group<V> (&group)[2], const Constants &c) {
    for (int r = 2; r <= external_rounds; ++r)
        for (auto &g : group) external_step<V>(g, c.external[r]);
    internal_part<V>(group[0], group[1], c);
    for (int r = external_rounds + 1; r < 2 * external_rounds; ++r)
        for (auto &g : group) external_step<V>(g, c.external[r]);
}

// The layer that ends one permutation and the one that begins the next, with the last block between them.
template <class V>
[[gnu::noinline]] void middle_step(Group<V> &group) {
    // The block's two elements are 1; scaled by 2^(32 (8 + 1)), which recombine's 2^-32 makes 2^(32 * 8), they are -1.
    static_assert(scale(2 * external_rounds + 1) == goldilocks_p - 1);
    typename V::Vec low[width], high[width];
    limbs_of_seventh_powers<V>(group.x, low, high);
    limb_layer(low);
    low[0] -= 1;  // the bias absorbs it
    low[1] -= 1;
    limb_layer(low);  // < 28 * 28 * 2^34
    limb_layer(high);
    limb_layer(high);  // < 28 * 56 * 2^32
    for (int i = 0; i < width; ++i) group.x[i] = recombine<V>(low[i], high[i], constants[1].external[0][i]);
}

// Element 0 of the last layer, not scaled. Returns any.
template <class V>
[[gnu::noinline]] typename V::Vec last_step(const Group<V> &group) {
    // Limbs have the scale 2^(32 (16 + 1)) = 2^-32. Multiplying them by 2^64 is free: 2^64 (low + 2^32 high) =
    // -(low + high) + 2^32 low. recombine divides by 2^32. The constants are 2^8 p in two limbs, which exceed high + low
    // < 2^39 and -low < 2^38 without the bias, and take the bias out of both.
    static_assert(scale(4 * external_rounds + 1) == scale(-1));
    typename V::Vec low[width], high[width];
    limbs_of_seventh_powers<V>(group.x, low, high);
    const auto low_sum = limb_row0(low), high_sum = limb_row0(high);
    return recombine<V>(V::set((uint64_t{1} << 40) + 256 + limb_bias) - (low_sum + high_sum),
                        V::set((uint64_t{1} << 40) - 512 - limb_bias) + low_sum, 0);
}

// ---- the first round ----

// Start<Order> in the form for the vector arithmetic, and the elements before the second S-boxes at low, low + 1, ...
template <class V, class Order>
struct VectorStart;

template <class V>
struct VectorStart<V, Counting> {
    uint64_t before[width];  // biased

    explicit VectorStart(const Start<Counting> &start) {
        for (int i = 0; i < width; ++i) before[i] = start.before[i] + V::bias;
    }

    void enter(Group<V> (&group)[2], uint32_t low) const {
        // The lowest byte of a nonce is the highest of the element's four; low is a multiple of the lanes <= 256.
        auto varying = V::set(__builtin_bswap32(low)) + (V::lane_numbers() << 24);
        for (auto &g : group) {
            for (int i = 0; i < width; ++i)  // the product is at most 6 M; before - (p - product) = before + product
                g.x[i] = V::subtract(V::set(before[i]), goldilocks_p - V::multiply(varying, V::set(column7[i])));
            varying += uint64_t{V::lanes} << 24;
            external_step<V>(g, constants[0].external[1]);
        }
    }
};

template <class V>
struct VectorStart<V, Walk> {
    uint64_t before3, before7;  // biased
    // The limbs of rest, scaled by 2^64 as those of the S-boxes are, less the bias of two S-boxes after the layer.
    uint64_t low_rest[width], high_rest[width];

    explicit VectorStart(const Start<Walk> &start) : before3(start.before3 + V::bias), before7(start.before7 + V::bias) {
        for (int i = 0; i < width; ++i) {
            const uint64_t scaled =
                subtract_mod(times_mod(start.rest[i], scale(2)), (column3[i] + column7[i]) * product_bias);
            low_rest[i] = scaled & epsilon;
            high_rest[i] = scaled >> 32;
        }
    }

    [[gnu::noinline]] void enter(Group<V> (&group)[2], uint32_t low) const {
        using Vec = typename V::Vec;
        Vec x[4], low_power[4], high_power[4];
        for (int g = 0; g < 2; ++g) {
            const Vec along = V::set(low + static_cast<uint32_t>(g * V::lanes)) + V::lane_numbers();
            const Vec product = V::multiply(along, V::set(Start<Walk>::factor));  // < 2^33
            x[2 * g] = V::subtract(V::set(before3), goldilocks_p - product);
            x[2 * g + 1] = V::subtract(V::set(before7), product);
        }
        limbs_of_seventh_powers<V>(x, low_power, high_power);
        for (int g = 0; g < 2; ++g) {
            Vec low_limb[width], high_limb[width];
            two_columns(low_power[2 * g], low_power[2 * g + 1], low_rest, low_limb);
            two_columns(high_power[2 * g], high_power[2 * g + 1], high_rest, high_limb);
            // low < 9 * 2^34 + M, high <= 18 M + M
            for (int i = 0; i < width; ++i) group[g].x[i] = recombine<V>(low_limb[i], high_limb[i], 0);
        }
    }

  private:
    // Columns 3 and 7 of the external matrix, multiplied with a and b, and rest.
    static void two_columns(typename V::Vec a, typename V::Vec b, const uint64_t (&rest)[width],
                            typename V::Vec (&sum)[width]) {
        const typename V::Vec both = a + b, part[3] = {both + a, both + b, both};
        for (int i = 0; i < 3; ++i) {
            const auto twice = part[i] + part[i];
            sum[4 * i] = part[i] + V::set(rest[4 * i]);
            sum[4 * i + 1] = part[i] + V::set(rest[4 * i + 1]);
            sum[4 * i + 2] = twice + part[i] + V::set(rest[4 * i + 2]);
            sum[4 * i + 3] = twice + V::set(rest[4 * i + 3]);
        }
    }
};

template <class V, class Order_>
class Poseidon2Vector {
  public:
    using Order = Order_;
    static constexpr uint64_t lanes = 2 * V::lanes, poll = 64;
    static_assert(lanes <= 32);

    explicit Poseidon2Vector(const qm_job &job) : span_(job) {}

    void seek(const U512 &position) {
        low_ = span_.offset(position);
        start_ = VectorStart<V, Order>(Start<Order>(span_.seek(position)));
    }

    uint32_t next() {
        Group<V> group[2];
        start_.enter(group, low_);
        rounds_after_first<V>(group, constants[0]);
        for (auto &g : group) {
            middle_step<V>(g);
            external_step<V>(g, constants[1].external[1]);
        }
        rounds_after_first<V>(group, constants[1]);

        // If the first 8 bytes are not above those of the target, the whole hash decides.
        uint32_t valid = 0, candidates = V::not_above(last_step<V>(group[0]), span_.top_target()) |
                                         V::not_above(last_step<V>(group[1]), span_.top_target()) << V::lanes;
        for (; __builtin_expect(candidates != 0, 0); candidates &= candidates - 1) {
            const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(candidates));
            valid |= uint32_t{span_.valid(low_ + lane)} << lane;
        }
        low_ += static_cast<uint32_t>(lanes);
        return valid;
    }

  private:
    Span<Order> span_;
    VectorStart<V, Order> start_{Start<Order>{State{}}};
    uint32_t low_ = 0;
};

}  // namespace
