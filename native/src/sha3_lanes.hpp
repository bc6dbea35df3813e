// The nonce sequence of a vector kernel of qpow-sha3: lane i is at nonce base + i, all lanes step by m^lanes at once.
#pragma once

#include <cstdint>

#include "quantus_miner.h"
#include "order.hpp"
#include "sha3.hpp"
#include "wide.hpp"

namespace {

// The product y * w mod n of many y with one w, w < n, y < n, n odd (Shoup's). The quotient comes from the constant
// w / n.
// With R = 2^(bits * limbs) >= 2^520 and
//     W = floor(w R / n) < R,
//     q = floor(y W / R), less at most what leaving out low columns of that product costs,
// w y / n - y W / R lies in [0, y / R) and y / R < 2^-8. If the columns left out sum to less than R / 2, then q is the
// quotient of w y by n or one less, so y w - q n < 2 n < 2^513 < R. Its residue modulo R therefore determines it, and
// y w + q (R - n) gives this residue with additions only. At the end n is subtracted if the result is not negative.
// Compared with Montgomery's product, q takes no product modulo R, two half products replace two whole ones, and y is
// in plain form.
// All three constants are in limbs, least significant first.
template <int bits, int limbs>
inline void to_limbs(uint64_t (&limb)[limbs], const U512 &value) {
    for (int i = 0; i < limbs; ++i) {
        const int word = i * bits / 64, shift = i * bits % 64;
        limb[i] = word < 8 ? value.word[word] >> shift : 0;
        if (shift + bits > 64 && word < 7) limb[i] |= value.word[word + 1] << (64 - shift);
        limb[i] &= (uint64_t{1} << bits) - 1;
    }
}

template <int bits, int limbs>
struct Factor {
    static constexpr uint64_t limb_mask = (uint64_t{1} << bits) - 1;
    static_assert(bits * limbs >= 520);

    Factor(const U512 &w, const U512 &n) {
        to_limbs<bits>(product, w);
        to_limbs<bits>(modulus, n);
        for (uint64_t &limb : modulus) limb ^= limb_mask;
        modulus[0] |= 1;  // -n is ~n + 1, and n is odd
        U512 rest = w;
        for (int i = bits * limbs - 1; i >= 0; --i) {
            U512 less;
            const bool carry = add(rest, rest, rest), borrow = subtract(less, rest, n);
            if (!carry && borrow) continue;
            rest = less;
            quotient[i / bits] |= uint64_t{1} << (i % bits);
        }
    }

    uint64_t product[limbs]{}, quotient[limbs]{}, modulus[limbs]{};  // w, W, R - n
};

// The bits 64 k .. 64 k + 63 of numbers in limbs.
template <int k, int bits, int limbs, class Vector>
QM_INLINE inline Vector word_of(const Vector (&limb)[limbs]) {
    Vector word{};
    unroll<limbs>([&](auto i) QM_INLINE {
        constexpr int shift = i * bits - 64 * k;
        if constexpr (shift >= 0 && shift < 64) word |= limb[i] << shift;
        if constexpr (shift < 0 && shift > -bits) word |= limb[i] >> -shift;
    });
    return word;
}

// An instruction set is a class with
//     Vector                      unsigned integers of 64 bits, one per lane
//     bits, limbs                 how numbers are split, see Factor
//     multiply(y, factor)         y <- y * w mod n in every lane, y < n in limbs
//     swap_bytes(v)               of each of the lanes
//     not_above(a, b)             bit i is set if lane i of a is not above b
//
// Lanes is a number below 2^512 in each lane, in limbs.
template <class Set>
struct Lanes {
    using Vector = typename Set::Vector;
    static constexpr int count = sizeof(Vector) / 8;

    void set(int lane, const U512 &value) {
        uint64_t part[Set::limbs];
        to_limbs<Set::bits>(part, value);
        for (int i = 0; i < Set::limbs; ++i) limb[i][lane] = part[i];
    }

    U512 get(int lane) const {
        uint64_t part[Set::limbs];
        for (int i = 0; i < Set::limbs; ++i) part[i] = limb[i][lane];
        U512 value;
        unroll<8>([&](auto k) QM_INLINE { value.word[k] = word_of<k, Set::bits>(part); });
        return value;
    }

    // The 64 most significant bits of SHA3-512.
    Vector sha3_512_top() const {
        Vector state[25]{};
        unroll<8>([&](auto i) QM_INLINE { state[i] = Set::swap_bytes(word_of<7 - i, Set::bits>(limb)); });
        state[8] += sha3_512_padding;
        return Set::swap_bytes(keccak_first(state));
    }

    Vector limb[Set::limbs]{};
};

template <class Set>
class Sha3Lanes {
  public:
    using Order = Counting;
    static constexpr int lanes = Lanes<Set>::count, poll = 64 * lanes;

    explicit Sha3Lanes(const qm_job &job)
        : job_(job), sequence_(job_), factor_(job_.modulus.power(job_.base, U512{{lanes}}), job_.modulus.value()) {}

    void seek(const U512 &nonce) {
        sequence_.seek(nonce);
        spread();
    }

    uint32_t next() {
        const Vector distance = y_.sha3_512_top() ^ job_.origin_top();
        uint32_t candidates = Set::not_above(distance, Vector{} + job_.target.word[7]), valid = 0;
        for (; __builtin_expect(candidates != 0, 0); candidates &= candidates - 1) {
            const int lane = __builtin_ctz(candidates);
            if (job_.valid(y_.get(lane))) valid |= uint32_t{1} << lane;
        }
        if (__builtin_expect(sequence_.room >= lanes, 1)) {
            Set::multiply(y_.limb, factor_);
            sequence_.room -= lanes;
        } else {  // the exponent stops growing within the next batch, or has stopped
            sequence_.y = y_.get(lanes - 1);
            sequence_.step();
            spread();
        }
        return valid;
    }

  private:
    using Vector = typename Set::Vector;

    // Begins with the nonce of lane 0 and leaves the sequence at the last lane.
    void spread() {
        for (int lane = 0; lane < lanes; ++lane) {
            if (lane) sequence_.step();
            y_.set(lane, sequence_.y);
        }
    }

    const Sha3Job job_;
    Sha3Sequence sequence_;  // of the last lane; its y is up to date only after stepping lane by lane
    const Factor<Set::bits, Set::limbs> factor_;
    Lanes<Set> y_;
};

}  // namespace
