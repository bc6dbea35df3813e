// The work that the nonces of a span share, for the kernels that use it. Their S-boxes start from the values kept here.
#pragma once

#include <cstdint>

#include "order.hpp"
#include "poseidon2.hpp"
#include "quantus_miner.h"
#include "wide.hpp"

namespace {

// The state before the third permutation, and the full hash of one nonce, for nonces that the first 8 bytes of the hash
// do not rule out.
template <class Order>
class Span {
  public:
    explicit Span(const qm_job &job) : header_(job.header), target_(load_be512(job.target)) {}

    // The offset of a position within its span.
    static uint32_t offset(const U512 &position) {
        return static_cast<uint32_t>(position.word[0] & ((uint64_t{1} << Order::span_bits) - 1));
    }

    // The state at the start of the span that `position` is in, before the third permutation.
    State seek(const U512 &position) {
        uint8_t bytes[64];
        first_ = position;
        first_.word[0] &= ~uint64_t{0} << Order::span_bits;
        store_be512(bytes, Order::nonce(first_));
        midstate_ = midstate(header_, bytes);
        State state = midstate_;
        absorb(state, bytes + 32);
        return state;
    }

    // A nonce is not valid if the first 8 bytes of its hash, as an integer, are above this.
    uint64_t top_target() const { return target_.word[7]; }

    bool valid(uint32_t offset) const {
        U512 position = first_;
        position.word[0] |= offset;
        uint8_t bytes[64];
        store_be512(bytes, Order::nonce(position));
        State state = midstate_;
        absorb(state, bytes + 32);
        return less_or_equal(finish_hash(state), target_);
    }

  private:
    const uint8_t *header_;
    const U512 target_;
    U512 first_{};
    State midstate_{};
};

// Columns 3 and 7 of the external matrix.
constexpr uint64_t column3[width] = {2, 2, 6, 4, 1, 1, 3, 2, 1, 1, 3, 2};
constexpr uint64_t column7[width] = {1, 1, 3, 2, 2, 2, 6, 4, 1, 1, 3, 2};

template <class Order>
struct Start;

// Element i before the first S-boxes is before[i] + column7[i] e, e the last element of the nonce.
template <>
struct Start<Counting> {
    uint64_t before[width];

    explicit Start(State state) {
        external_layer(state);
        for (int i = 0; i < width; ++i) before[i] = add(state.element[i], external_round_constants_initial[0][i]);
    }
};

// At step k, elements 3 and 7 before the first S-boxes are before3 + factor k and before7 - factor k. The others are
// the same at every step; rest is their contribution to the elements before the second S-boxes.
template <>
struct Start<Walk> {
    static constexpr uint64_t factor = 35;
    uint64_t before3, before7, rest[width];

    explicit Start(State state) {
        const Start<Counting> all(state);
        before3 = all.before[3];
        before7 = all.before[7];
        for (int i = 0; i < width; ++i)
            state.element[i] = i == 3 || i == 7 ? 0 : seventh_power(all.before[i]);
        external_layer(state);
        for (int i = 0; i < width; ++i) rest[i] = add(state.element[i], external_round_constants_initial[1][i]);
    }
};

}  // namespace
