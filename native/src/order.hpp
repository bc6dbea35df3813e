// The orders in which a search tests nonces. A search counts positions, and an order maps each position to a nonce. A
// span is the positions that differ only in the low span_bits; its nonces share most of the hash's work.
#pragma once

#include <cstdint>

#include "quantus_miner.h"
#include "wide.hpp"

namespace {

// The nonce is the position.
struct Counting {
    static constexpr int span_bits = 32;  // the last of the nonce's elements

    static U512 nonce(const U512 &position) { return position; }
};

// For qpow-poseidon2, which allows any order. In a walk, only two S-boxes of the first round vary.
//
// The low half of a nonce is eight elements of 4 bytes. At step k of a walk, element i is step[i] k, or 2^32 - 1 +
// step[i] k if step[i] < 0. step is (u, -u) with u = (17, -11, 3, -4), which the 4x4 matrix turns into (0, 0, 0, 35).
// The external layer therefore turns the step into 35 in element 3 and -35 in element 7. As k < 2^27, 17 k < 2^32 and
// no element exceeds its 4 bytes. Element 0 determines k, so no nonce occurs twice. The high half counts the walks.
struct Walk {
    static constexpr int span_bits = 27;
    static constexpr int step[8] = {17, -11, 3, -4, -17, 11, -3, 4};

    // The high half has 256 bits.
    static bool has(const U512 &position) {
        return position.word[4] >> span_bits == 0 && (position.word[5] | position.word[6] | position.word[7]) == 0;
    }

    static U512 nonce(const U512 &position) {
        U512 nonce;
        for (int i = 0; i < 4; ++i)
            nonce.word[4 + i] = position.word[i] >> span_bits | position.word[i + 1] << (64 - span_bits);
        const uint32_t k = position.word[0] & ((uint32_t{1} << span_bits) - 1);
        uint32_t element[8];  // modulo 2^32, -1 is 2^32 - 1
        for (int i = 0; i < 8; ++i) element[i] = static_cast<uint32_t>(step[i]) * k - (step[i] < 0);
        for (int i = 0; i < 4; ++i)
            nonce.word[3 - i] = uint64_t{__builtin_bswap32(element[2 * i])} << 32 | __builtin_bswap32(element[2 * i + 1]);
        return nonce;
    }
};

}  // namespace
