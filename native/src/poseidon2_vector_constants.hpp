// What poseidon2_vector.hpp multiplies with and adds, computed when it is compiled.
//
// A stored element is the true one times 2^(32 k) modulo p, in internal rounds plus an offset. k goes up by one with
// every external round (see limb_product and recombine there) and stays in internal rounds, where an S-box multiplies
// by 2^-384 = 1. The constants below are scaled alike and take the offsets away, so neither costs an instruction.
#pragma once

#include <cstdint>

#include "poseidon2.hpp"

namespace {

constexpr int external_rounds = 4, internal_rounds = 22;  // external ones before and after the internal ones

constexpr uint64_t times_mod(uint64_t a, uint64_t b) {
    return static_cast<uint64_t>(static_cast<u128>(a) * b % goldilocks_p);
}

constexpr uint64_t add_mod(uint64_t a, uint64_t b) {
    return static_cast<uint64_t>((static_cast<u128>(a) + b) % goldilocks_p);
}

constexpr uint64_t subtract_mod(uint64_t a, uint64_t b) {
    return add_mod(a, goldilocks_p - b % goldilocks_p);
}

// 2^(32 k) modulo p; 2^192 = 1.
constexpr uint64_t scale(int k) {
    uint64_t power = 1;
    for (int i = 0; i < (k % 6 + 6) % 6; ++i) power = times_mod(power, uint64_t{1} << 32);
    return power;
}

// ---- internal rounds ----

// How an entry d of the diagonal is multiplied with x = x0 + 2^32 x1: 2^32 d = a0 + 2^32 a1 and 2^64 d = b0 + 2^32 b1,
// the digits signed, so 2^32 d x = (a0 x0 + b0 x1) + 2^32 (a1 x0 + b1 x1).
struct Entry {
    int64_t a0, a1, b0, b1;
    int low, high;  // the offsets, of those below, with which both sums stay in one word
};

// A 64-bit word is wide enough for a0 x0 + b0 x1 where |a0| + |b0| < 2^32: of the several digits that d has, some are
// like that. What is negative in it needs an offset; these two and two are enough for all entries.
constexpr uint64_t low_offset[2] = {uint64_t{100} << 56, uint64_t{62} << 56};
constexpr uint64_t high_offset[2] = {uint64_t{56} << 56, uint64_t{87} << 56};

constexpr uint64_t sum_bound = uint64_t{1} << 37;  // above 24 (2^32 - 1)

// Whether 0 <= offset + a x0 + b x1 + s < 2^64 for all x0, x1 < 2^32 and -less <= s <= more.
constexpr bool fits(uint64_t offset, int64_t a, int64_t b, uint64_t less, uint64_t more) {
    u128 negative = less, positive = more;
    for (int64_t digit : {a, b})
        (digit < 0 ? negative : positive) += static_cast<u128>(epsilon) * static_cast<u128>(digit < 0 ? -digit : digit);
    return offset >= negative && offset + positive <= ~uint64_t{0};
}

constexpr bool low_fits(uint64_t offset, const Entry &e) {
    return fits(offset, e.a0, e.b0, sum_bound, 0);
}

constexpr bool high_fits(uint64_t offset, const Entry &e) {
    return fits(offset, e.a1, e.b1, 0, sum_bound + epsilon);  // epsilon: what is carried from the low sum
}

// value or value - p as digit0 + 2^32 digit1, digit0 negative or not: four ways. False where a digit is too large.
constexpr bool split(uint64_t value, int way, int64_t &digit0, int64_t &digit1) {
    __extension__ using i128 = __int128;
    constexpr i128 base = i128{1} << 32;
    const i128 number = static_cast<i128>(value) - (way & 1 ? i128{goldilocks_p} : 0);
    digit0 = static_cast<int64_t>((number & (base - 1)) - (way & 2 ? base : 0));
    digit1 = static_cast<int64_t>((number - digit0) / base);
    return -base < digit0 && digit0 < base && -base < digit1 && digit1 < base;
}

// All zero where no digits fit.
constexpr Entry find_entry(uint64_t d) {
    for (int way = 0; way < 64; ++way) {
        Entry e{0, 0, 0, 0, way >> 4 & 1, way >> 5 & 1};
        if (split(times_mod(d, scale(1)), way & 3, e.a0, e.a1) &&
            split(times_mod(d, scale(2)), way >> 2 & 3, e.b0, e.b1) && low_fits(low_offset[e.low], e) &&
            high_fits(high_offset[e.high], e))
            return e;
    }
    return {};
}

struct Diagonal {
    Entry entry[width];
};

constexpr Diagonal make_diagonal() {
    Diagonal all{};
    for (int i = 0; i < width; ++i) all.entry[i] = find_entry(internal_diagonal[i]);
    return all;
}

constexpr Diagonal diagonal = make_diagonal();

constexpr bool diagonal_is_complete() {
    for (const Entry &e : diagonal.entry)
        if (e.a0 == 0 && e.a1 == 0) return false;
    return true;
}
static_assert(diagonal_is_complete());

// By how much the offsets of the two sums change the element.
constexpr uint64_t effect(uint64_t low, uint64_t high) {
    return add_mod(times_mod(low, scale(-1)), high % goldilocks_p);
}

// ---- round constants ----

// Added to each low limb of a product, so that none is negative, and what it is after an external layer.
constexpr uint64_t product_bias = uint64_t{1} << 33, limb_bias = 28 * product_bias;

// The largest constant that recombine takes.
constexpr uint64_t recombine_bound = ~uint64_t{0} - (uint64_t{1} << 45);

struct Constants {
    // Added where the layer before external round r ends, with r = 4 for the first internal round; [0] by the two
    // layers between the permutations, in the first permutation not at all.
    uint64_t external[2 * external_rounds][width];
    uint64_t low0[internal_rounds], high0[internal_rounds];  // the offsets of element 0 in internal round r
    uint64_t after_internal[width];                          // to be subtracted: offset less constant
};

// For permutation 0, whose elements begin with the scale 2^0, or 1.
constexpr Constants make_constants(int permutation) {
    Constants c{};
    const int first = 2 * external_rounds * permutation, internal = first + external_rounds;
    const uint64_t bias = limb_bias >> 32;
    for (int r = 0; r < external_rounds; ++r)
        for (int i = 0; i < width; ++i) {
            // Where two layers follow each other, the second multiplies the bias by its row sum.
            c.external[r][i] = subtract_mod(times_mod(external_round_constants_initial[r][i], scale(first + r)),
                                            r == 0 ? 28 * bias : bias);
            if (r > 0)
                c.external[external_rounds + r][i] =
                    subtract_mod(times_mod(external_round_constants_terminal[r][i], scale(internal + r)), bias);
        }
    c.external[external_rounds][0] = subtract_mod(times_mod(internal_round_constants[0], scale(internal)), bias);

    // Elements 1 .. 11 enter the internal rounds with the bias left in; element 0 never has an offset.
    uint64_t offset[width] = {};
    for (int i = 1; i < width; ++i) offset[i] = bias;
    const Entry &e = diagonal.entry[0];
    for (int r = 0; r < internal_rounds; ++r) {
        uint64_t sum = 0;
        for (uint64_t o : offset) sum = add_mod(sum, o);
        for (int i = 1; i < width; ++i) {
            const uint64_t added = effect(low_offset[diagonal.entry[i].low], high_offset[diagonal.entry[i].high]);
            offset[i] = add_mod(add_mod(times_mod(offset[i], internal_diagonal[i]), sum), added);
        }
        const bool last = r + 1 == internal_rounds;
        const uint64_t next = last ? 0 : times_mod(internal_round_constants[r + 1], scale(internal));
        c.low0[r] = low_offset[e.low];
        do {
            c.low0[r] += uint64_t{1} << 28;  // moves high0 by about 2^60
            c.high0[r] = subtract_mod(subtract_mod(next, sum), effect(c.low0[r], 0));
        } while (!high_fits(c.high0[r], e));
    }
    for (int i = 0; i < width; ++i)
        c.after_internal[i] =
            subtract_mod(offset[i], times_mod(external_round_constants_terminal[0][i], scale(internal)));
    return c;
}

constexpr Constants constants[2] = {make_constants(0), make_constants(1)};

constexpr bool constants_fit() {
    for (const Constants &c : constants) {
        for (const auto &round : c.external)
            for (uint64_t constant : round)
                if (constant > recombine_bound) return false;
        for (int r = 0; r < internal_rounds; ++r)
            if (!low_fits(c.low0[r], diagonal.entry[0]) || !high_fits(c.high0[r], diagonal.entry[0])) return false;
    }
    return true;
}
static_assert(constants_fit());

}  // namespace
