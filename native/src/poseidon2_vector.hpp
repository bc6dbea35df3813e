// qpow-poseidon2 on vectors of 64-bit lanes, one nonce a lane: the part that all instruction sets share.
//
// Stored elements are the true ones times a power of 2^32, modulo p, and where it says so plus a constant: both are
// known when this is compiled and go into the round constants, so neither costs anything. This allows Montgomery's
// reduction, which takes the low digits off a product instead of the high ones, exactly, with a single correction at
// its end: p = 1 modulo 2^32, so adding or subtracting the multiple low * p clears the low 32 bits `low`.
// 2^64 = 2^32 - 1, 2^96 = -1, 2^192 = 1 modulo p.
//
// V is the instruction set: V::Vec with + - & << >> on unsigned 64-bit lanes, and
//     multiply(a, b)        the product of the low 32 bits of each lane
//     biased(a)             a + V::bias
//     subtract(a, b)        where a = biased(c), b < p: c - b modulo p: c - b, plus p where that is negative
//     carry_sum(u, v, high) high + (u + v >> 32); leaves in u a value whose low 32 bits are those of u + v
//     above(a, limit)       ...
// Bounds are stated for each lane; M = 2^32 - 1. Products of 32-bit digits are at most M^2 = 2^64 - 2^33 + 1.
#pragma once

#include <cstdint>
#include <utility>

#include "poseidon2.hpp"
#include "quantus_miner.h"
#include "wide.hpp"

namespace {

// ---- constants ----

constexpr uint64_t times(uint64_t a, uint64_t b) {
    return static_cast<uint64_t>(static_cast<u128>(a) * b % goldilocks_p);
}
constexpr uint64_t plus(uint64_t a, uint64_t b) {
    return static_cast<uint64_t>((static_cast<u128>(a) + b) % goldilocks_p);
}
constexpr uint64_t minus(uint64_t a, uint64_t b) {
    return plus(a, goldilocks_p - b % goldilocks_p);
}
// 2^(32 k) modulo p
constexpr uint64_t scale(int k) {
    uint64_t power = 1;
    for (k = (k % 6 + 6) % 6; k > 0; --k) power = times(power, uint64_t{1} << 32);
    return power;
}

constexpr int external_rounds = 4, internal_rounds = 22;

// a0 + 2^32 a1 and b0 + 2^32 b1 are 2^32 and 2^64 times an entry of the diagonal, the digits signed.
struct Entry {
    int64_t a0, a1, b0, b1;
    int low, high;  // which of the offsets below
};

// With these added to the low and high sums of an internal round, no sum is ever negative or reaches 2^64.
constexpr uint64_t low_offset[2] = {uint64_t{100} << 56, uint64_t{62} << 56};
constexpr uint64_t high_offset[2] = {uint64_t{56} << 56, uint64_t{87} << 56};

// Whether offset + a x0 + b x1 + s is in 0 .. 2^64 - 1 for all x0, x1 <= M and -less <= s <= more.
constexpr bool fits(uint64_t offset, int64_t a, int64_t b, uint64_t less, uint64_t more) {
    const u128 M = epsilon;
    u128 negative = less, positive = more;
    for (int64_t digit : {a, b}) (digit < 0 ? negative : positive) += M * static_cast<u128>(digit < 0 ? -digit : digit);
    return offset >= negative && positive + offset < static_cast<u128>(1) << 64;
}

constexpr uint64_t sum_bound = uint64_t{1} << 37;  // of 12 * M, and of 24 * M

constexpr bool low_fits(uint64_t offset, const Entry &e) {
    return fits(offset, e.a0, e.b0, sum_bound, 0);
}
constexpr bool high_fits(uint64_t offset, const Entry &e) {
    return fits(offset, e.a1, e.b1, 0, sum_bound + epsilon);
}

// The n-th way, of four, to write value or value - p as digit0 + 2^32 digit1; false if the digits are too large.
constexpr bool digits(uint64_t value, int n, int64_t &digit0, int64_t &digit1) {
    __extension__ using i128 = __int128;
    constexpr i128 base = i128{1} << 32;
    const i128 number = static_cast<i128>(value) - (n & 1 ? static_cast<i128>(goldilocks_p) : 0);
    digit0 = static_cast<int64_t>((number & (base - 1)) - (n & 2 ? base : 0));
    digit1 = static_cast<int64_t>((number - digit0) / base);
    return -base < digit0 && digit0 < base && -base < digit1 && digit1 < base;
}

constexpr Entry entry(uint64_t value) {
    for (int way = 0; way < 64; ++way) {
        Entry e{};
        e.low = way >> 4 & 1;
        e.high = way >> 5 & 1;
        if (digits(times(value, scale(1)), way & 3, e.a0, e.a1) &&
            digits(times(value, scale(2)), way >> 2 & 3, e.b0, e.b1) && low_fits(low_offset[e.low], e) &&
            high_fits(high_offset[e.high], e))
            return e;
    }
    return {};
}

struct Diagonal {
    Entry entry[width];
};
constexpr Diagonal make_diagonal() {
    Diagonal d{};
    for (int i = 0; i < width; ++i) d.entry[i] = entry(internal_diagonal[i]);
    return d;
}
constexpr Diagonal diagonal = make_diagonal();

constexpr bool diagonal_is_complete() {
    for (const Entry &e : diagonal.entry)
        if (!e.a0 && !e.a1) return false;
    return true;
}
static_assert(diagonal_is_complete());

// Added to all low limbs of an external layer, so that none is negative after it.
constexpr uint64_t limb_bias = uint64_t{1} << 38;

struct Constants {
    // What the recombination before round r adds; external[0] of the first permutation is not used, [4] is for
    // the first internal round.
    uint64_t external[2][8][width];
    uint64_t low[2][internal_rounds], high[2][internal_rounds];  // the offsets of element 0
    uint64_t after_internal[2][width];                          // to subtract
};

// What an internal round adds to an element by its offsets.
constexpr uint64_t added(uint64_t low, uint64_t high) {
    return plus(times(low, scale(-1)), high % goldilocks_p);
}

// Elements are scaled by 2^(32 k); k goes up by one with every external round and stays in internal rounds.
constexpr Constants make_constants() {
    Constants c{};
    for (int permutation = 0; permutation < 2; ++permutation) {
        const int k = 8 * permutation;
        for (int r = 0; r < 4; ++r)
            for (int i = 0; i < width; ++i) {
                const uint64_t biases = (r == 0 ? 28 : 1) * (limb_bias >> 32);
                c.external[permutation][r][i] =
                    minus(times(external_round_constants_initial[r][i], scale(k + r)), biases);
                if (r == 0) continue;
                c.external[permutation][4 + r][i] =
                    minus(times(external_round_constants_terminal[r][i], scale(k + 4 + r)), biases);
            }
        c.external[permutation][4][0] = minus(times(internal_round_constants[0], scale(k + 4)), limb_bias >> 32);

        uint64_t offset[width] = {};
        for (int i = 1; i < width; ++i) offset[i] = limb_bias >> 32;
        for (int r = 0; r < internal_rounds; ++r) {
            uint64_t sum = 0;
            for (uint64_t o : offset) sum = plus(sum, o);
            for (int i = 0; i < width; ++i) {
                const Entry &e = diagonal.entry[i];
                offset[i] = plus(times(offset[i], internal_diagonal[i]),
                                 plus(sum, added(low_offset[e.low], high_offset[e.high])));
            }
            // Element 0 has offsets of its own: they bring the next round's constant and leave no offset.
            const Entry &e = diagonal.entry[0];
            const uint64_t constant = r + 1 < internal_rounds ? times(internal_round_constants[r + 1], scale(k + 4)) : 0;
            const uint64_t wanted = minus(constant, sum);
            uint64_t &low = c.low[permutation][r] = low_offset[e.low], &high = c.high[permutation][r] = 0;
            for (;; low += uint64_t{1} << 28) {
                high = minus(wanted, times(low, scale(-1)));
                if (high_fits(high, e)) break;
            }
            offset[0] = 0;
        }
        for (int i = 0; i < width; ++i)
            c.after_internal[permutation][i] =
                minus(offset[i], times(external_round_constants_terminal[0][i], scale(k + 4)));
    }
    return c;
}
constexpr Constants constants = make_constants();

constexpr bool constants_fit() {
    for (int permutation = 0; permutation < 2; ++permutation) {
        for (const auto &round : constants.external[permutation])
            for (uint64_t constant : round)
                if (constant > ~uint64_t{0} - (uint64_t{1} << 45)) return false;
        for (uint64_t low : constants.low[permutation])
            if (!low_fits(low, diagonal.entry[0])) return false;
    }
    return true;
}
static_assert(constants_fit());

// ---- arithmetic ----

template <class V>
[[gnu::always_inline]] inline typename V::Vec low_half(typename V::Vec a) {
    return a & epsilon;
}

// W any, v any, l0 <= M: W - l0 - (v mod 2^32) * M modulo p. 
template <class V>
[[gnu::always_inline]] inline typename V::Vec montgomery(typename V::Vec high, typename V::Vec middle, typename V::Vec low) {
    return V::subtract(V::biased(high), low + V::multiply(middle, V::set(epsilon)));
}

template <class V>
[[gnu::always_inline]] inline typename V::Vec square(typename V::Vec x) {
    const auto x1 = x >> 32;
    const auto ll = V::multiply(x, x), lh = V::multiply(x, x1), hh = V::multiply(x1, x1);
    const auto l0 = low_half<V>(ll), t = l0 + (ll >> 32);
    const auto u = lh + (t >> 1);
    return montgomery<V>(hh + (u >> 31), lh + lh + t, l0);
}

template <class V>
[[gnu::always_inline]] inline typename V::Vec multiply(typename V::Vec x, typename V::Vec y) {
    const auto x1 = x >> 32, y1 = y >> 32;
    const auto ll = V::multiply(x, y), lh = V::multiply(x, y1), hl = V::multiply(x1, y), hh = V::multiply(x1, y1);
    const auto l0 = low_half<V>(ll);
    auto middle = lh + (l0 + (ll >> 32));
    const auto high = V::carry_sum(middle, hl, hh);
    return montgomery<V>(high, middle, l0);
}

template <class V>
[[gnu::always_inline]] inline void multiply_limbs(typename V::Vec x, typename V::Vec y, typename V::Vec &low, typename V::Vec &high) {
    const auto x1 = x >> 32, y1 = y >> 32;
    const auto ll = V::multiply(x, y), lh = V::multiply(x, y1), hl = V::multiply(x1, y), hh = V::multiply(x1, y1);
    auto middle = lh + (ll >> 32);
    const auto w = V::carry_sum(middle, hl, hh);
    const auto w0 = low_half<V>(w);
    low = low_half<V>(ll) - (w >> 32) - w0;
    high = low_half<V>(middle) + w0;
}

template <class V>
[[gnu::always_inline]] inline typename V::Vec seventh_power(typename V::Vec x) {
    const auto x2 = square<V>(x);
    const auto x3 = multiply<V>(x, x2);
    const auto x4 = square<V>(x2);
    return multiply<V>(x3, x4);
}

template <class Vec>
inline void vector_external_layer(Vec *x) {
    for (int i = 0; i < width; i += 4) {
        const Vec pair01 = x[i] + x[i + 1], pair23 = x[i + 2] + x[i + 3], all = pair01 + pair23;
        const Vec all1 = all + x[i + 1], all3 = all + x[i + 3];
        x[i + 3] = all3 + (x[i] + x[i]);
        x[i + 1] = all1 + (x[i + 2] + x[i + 2]);
        x[i] = all1 + pair01;
        x[i + 2] = all3 + pair23;
    }
}
template <class Vec>
inline void vector_external_layer(Vec *x, uint64_t bias) {
    vector_external_layer(x);
    for (int i = 0; i < 4; ++i) {
        const Vec sum = x[i] + x[i + 4] + x[i + 8] + bias;
        for (int j = i; j < width; j += 4) x[j] += sum;
    }
}

template <class V>
struct Group {
    using Vec = typename V::Vec;
    Vec x[width];
    Vec low[2], high[2];  // sums with offsets
    Vec sum, sum1;
};

template <class V>
[[gnu::always_inline]] inline typename V::Vec recombine(typename V::Vec low, typename V::Vec high, uint64_t constant) {
    const auto m = high + (low >> 32) + V::set(constant + V::bias);
    return V::subtract(m, V::multiply(low, V::set(epsilon)));
}

template <class V, int n>
[[gnu::always_inline]] inline void limbs_of_seventh_powers(const typename V::Vec *x, typename V::Vec *low, typename V::Vec *high) {
    typename V::Vec x2[n], x3[n], x4[n];
    for (int i = 0; i < n; ++i) x2[i] = square<V>(x[i]);
    for (int i = 0; i < n; ++i) x3[i] = multiply<V>(x[i], x2[i]);
    for (int i = 0; i < n; ++i) x4[i] = square<V>(x2[i]);
    for (int i = 0; i < n; ++i) multiply_limbs<V>(x3[i], x4[i], low[i], high[i]);
}

template <class V>
[[gnu::always_inline]] inline void all_limbs(const typename V::Vec (&x)[width], typename V::Vec (&low)[width], typename V::Vec (&high)[width]) {
#pragma GCC unroll 1
    for (int i = 0; i < width; i += V::lockstep) limbs_of_seventh_powers<V, V::lockstep>(x + i, low + i, high + i);
}

template <class V>
[[gnu::noinline]] void vector_external_step(Group<V> &group, const uint64_t (&next)[width]) {
    typename V::Vec low[width], high[width];
    all_limbs<V>(group.x, low, high);
    vector_external_layer(low, limb_bias);
    vector_external_layer(high, 0);
    for (int i = 0; i < width; ++i) group.x[i] = recombine<V>(low[i], high[i], next[i]);
}

template <class V, int i>
[[gnu::always_inline]] inline typename V::Vec diagonal_product(typename V::Vec x, typename V::Vec x1, typename V::Vec low, typename V::Vec high) {
    constexpr Entry e = diagonal.entry[i];
    const auto add = [](auto sum, auto value, auto digit) {
        constexpr int64_t d = decltype(digit)::value;
        if constexpr (d < 0)
            return sum - V::multiply(value, V::set(static_cast<uint64_t>(-d)));
        else
            return sum + V::multiply(value, V::set(static_cast<uint64_t>(d)));
    };
    low = add(low, x, std::integral_constant<int64_t, e.a0>{});
    low = add(low, x1, std::integral_constant<int64_t, e.b0>{});
    high = add(high, x, std::integral_constant<int64_t, e.a1>{});
    high = add(high, x1, std::integral_constant<int64_t, e.b1>{});
    return V::subtract(high + (low >> 32), V::multiply(low, V::set(epsilon)));
}

template <class V, int i>
[[gnu::always_inline]] inline void diagonal_element(Group<V> &g) {
    constexpr Entry e = diagonal.entry[i];
    const auto x = diagonal_product<V, i>(g.x[i], g.x[i] >> 32, g.low[e.low], g.high[e.high]);
    g.x[i] = x;
    g.sum += x;
    g.sum1 += x >> 32;
}

template <class V, int... i>
[[gnu::always_inline]] inline void diagonal_elements(Group<V> &g, std::integer_sequence<int, i...>) {
    (diagonal_element<V, i + 1>(g), ...);
}

template <class V>
[[gnu::always_inline]] inline void diagonal_step(Group<V> &g) {
    g.sum = g.sum1 = V::set(0);
    diagonal_elements<V>(g, std::make_integer_sequence<int, width - 1>{});
}

template <class V>
[[gnu::always_inline]] inline void sum_step(Group<V> &g, typename V::Vec power, uint64_t low0, uint64_t high0) {
    const auto power1 = power >> 32;
    const auto s1 = g.sum1 + power1, s = g.sum + power;
    const auto high = s - (s1 << 32) + s1;
    for (int k = 0; k < 2; ++k) {
        g.low[k] = V::set(low_offset[k]) - s1;
        g.high[k] = high + V::set(high_offset[k] + V::bias);
    }
    g.x[0] = diagonal_product<V, 0>(power, power1, V::set(low0) - s1, high + V::set(high0 + V::bias));
}

template <class V>
[[gnu::noinline]] void vector_internal_step(Group<V> &power, Group<V> &linear, uint64_t low0, uint64_t high0) {
    const auto p = seventh_power<V>(power.x[0]);
    diagonal_step<V>(linear);
    sum_step<V>(power, p, low0, high0);
}

template <class V>
[[gnu::noinline]] void vector_internal_rounds(Group<V> &a, Group<V> &b, const uint64_t (&low)[internal_rounds],
                                              const uint64_t (&high)[internal_rounds]) {
    for (Group<V> *g : {&a, &b}) {
        g->sum = g->sum1 = V::set(0);
        for (int i = 1; i < width; ++i) g->sum += g->x[i], g->sum1 += g->x[i] >> 32;
    }
    sum_step<V>(a, seventh_power<V>(a.x[0]), low[0], high[0]);
    for (int r = 0; r < internal_rounds - 1; ++r) {
        vector_internal_step<V>(b, a, low[r], high[r]);
        vector_internal_step<V>(a, b, low[r + 1], high[r + 1]);
    }
    vector_internal_step<V>(b, a, low[internal_rounds - 1], high[internal_rounds - 1]);
    diagonal_step<V>(b);
}

template <class V>
class Poseidon2Vector {
  public:
    static constexpr int groups = 2;
    static constexpr uint64_t lanes = groups * V::lanes, poll = 64;

    explicit Poseidon2Vector(const qm_job &job) : header_(job.header), limit_(load_be512(job.limit)) {}

    void seek(const U512 &nonce) {
        uint8_t bytes[64];
        store_be512(bytes, nonce);
        low_ = static_cast<uint32_t>(nonce.word[0]);
        fixed_ = midstate(header_, bytes);
        bytes[60] = bytes[61] = bytes[62] = bytes[63] = 0;
        absorb(fixed_, bytes + 32);
        State first = fixed_;
        external_layer(first);
        for (int i = 0; i < width; ++i)
            first_[i] = canonical(add(first.element[i], external_round_constants_initial[0][i])) + V::bias;
    }

    uint32_t next() {
        using Vec = typename V::Vec;
        Group<V> group[groups];
        for (int k = 0; k < groups; ++k) {
            const Vec varying = V::set(__builtin_bswap32(low_)) + (V::lane_numbers() << 24) + V::set(uint64_t(k * V::lanes) << 24);
            for (int i = 0; i < width; ++i)
                group[k].x[i] = V::subtract(V::set(first_[i]), V::set(goldilocks_p) - V::multiply(varying, V::set(column7[i])));
        }
        rounds(group, 0);
        uint32_t candidates = 0;
        for (int k = 0; k < groups; ++k) {
            Vec low[width], high[width];
            all_limbs<V>(group[k].x, low, high);
            vector_external_layer(low, limb_bias);
            vector_external_layer(high, 0);
            low[0] -= 1;
            low[1] -= 1;
            vector_external_layer(low, 0);
            vector_external_layer(high, 0);
            for (int i = 0; i < width; ++i)
                group[k].x[i] = recombine<V>(low[i], high[i], constants.external[1][0][i]);
        }
        rounds(group, 1);
        for (int k = 0; k < groups; ++k) {
            Vec low[width], high[width];
            all_limbs<V>(group[k].x, low, high);
            Vec l = V::set(0), h = l;
            for (int i = 0; i < width; ++i)
                for (int n = 0; n < row0[i]; ++n) l += low[i], h += high[i];
            // 2^64 (l + 2^32 h) = -(l + h) + 2^32 l; the constants add up to 2^8 p
            const Vec out = recombine<V>(V::set(0x10000000100) - (l + h), l + V::set(0xfffffffe00), 0);
            candidates |= V::not_above(out, limit_.word[7]) << (k * V::lanes);
        }
        uint32_t valid = 0;
        for (uint32_t left = candidates; left; left &= left - 1) {
            const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(left));
            State state = fixed_;
            state.element[7] = add(state.element[7], __builtin_bswap32(low_ + lane));
            if (less_or_equal(finish_hash(state), limit_)) valid |= uint32_t{1} << lane;
        }
        low_ += static_cast<uint32_t>(lanes);
        return valid;
    }

  private:
    static constexpr uint64_t column7[width] = {1, 1, 3, 2, 2, 2, 6, 4, 1, 1, 3, 2};
    static constexpr int row0[width] = {4, 6, 2, 2, 2, 3, 1, 1, 2, 3, 1, 1};

    static void rounds(Group<V> (&group)[groups], int permutation) {
        for (int r = 1; r <= 4; ++r)
            for (auto &g : group) vector_external_step<V>(g, constants.external[permutation][r]);
        vector_internal_rounds<V>(group[0], group[1], constants.low[permutation], constants.high[permutation]);
        for (auto &g : group)
            for (int i = 0; i < width; ++i)
                g.x[i] = V::subtract(V::biased(g.x[i]), V::set(constants.after_internal[permutation][i]));
        for (int r = 5; r < 8; ++r)
            for (auto &g : group) vector_external_step<V>(g, constants.external[permutation][r]);
    }

    const uint8_t *header_;
    const U512 limit_;
    uint32_t low_ = 0;
    State fixed_{};
    uint64_t first_[width]{};
};

}  // namespace
