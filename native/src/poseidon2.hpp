// Poseidon2 over Goldilocks, width 12, rate 8: the plain permutation and the proof-of-work hash built on it.
#pragma once

#include <cstdint>

#include "goldilocks.hpp"
#include "poseidon2_constants.hpp"
#include "wide.hpp"

namespace {

constexpr int width = 12;

struct State {
    uint64_t element[width];  // any representatives
};

// Multiplies by the external matrix: applies [[2,3,1,1],[1,2,3,1],[1,1,2,3],[3,1,1,2]] to each group of four, then adds
// to each element the sum of its residue class modulo 4. A row adds up to at most 2 * 7 + 7 + 7 = 28, so elements
// below B give elements of at most 28 (B - 1).
inline void external_layer(u128 (&x)[width]) {
    for (int i = 0; i < width; i += 4) {
        const u128 pair01 = x[i] + x[i + 1], pair23 = x[i + 2] + x[i + 3];
        const u128 all1 = pair01 + pair23 + x[i + 1], all3 = pair01 + pair23 + x[i + 3];
        x[i + 3] = all3 + 2 * x[i];
        x[i + 1] = all1 + 2 * x[i + 2];
        x[i] = all1 + pair01;
        x[i + 2] = all3 + pair23;
    }
    for (int i = 0; i < 4; ++i) {
        const u128 sum = x[i] + x[i + 4] + x[i + 8];
        for (int j = i; j < width; j += 4) x[j] += sum;
    }
}

// Elements any; 28 * 2^64 < 2^96.
inline void external_layer(State &state) {
    u128 wide[width];
    for (int i = 0; i < width; ++i) wide[i] = state.element[i];
    external_layer(wide);
    for (int i = 0; i < width; ++i) state.element[i] = reduce96(wide[i]);
}

inline void external_round(State &state, const uint64_t (&constants)[width]) {
    for (int i = 0; i < width; ++i) state.element[i] = seventh_power(add(state.element[i], constants[i]));
    external_layer(state);
}

inline void internal_round(State &state, uint64_t constant) {
    state.element[0] = seventh_power(add(state.element[0], constant));
    u128 sum = 0;
    for (uint64_t element : state.element) sum += element;
    const uint64_t reduced = reduce96(sum);
    for (int i = 0; i < width; ++i) state.element[i] = mul_add(internal_diagonal[i], state.element[i], reduced);
}

inline void permute(State &state) {
    external_layer(state);
    for (const auto &constants : external_round_constants_initial) external_round(state, constants);
    for (uint64_t constant : internal_round_constants) internal_round(state, constant);
    for (const auto &constants : external_round_constants_terminal) external_round(state, constants);
}

// Adds a block of 32 bytes, as eight little-endian integers of 4 bytes, to elements 0..7.
inline void absorb(State &state, const uint8_t block[32]) {
    for (int i = 0; i < 8; ++i) {
        const uint8_t *b = block + 4 * i;
        const uint64_t value = b[0] | uint64_t{b[1]} << 8 | uint64_t{b[2]} << 16 | uint64_t{b[3]} << 24;
        state.element[i] = add(state.element[i], value);
    }
}

// The first four elements as 32 bytes, each little-endian, in the high or the low half of a big-endian integer.
inline void squeeze(U512 &hash, const State &state, int first_word) {
    for (int i = 0; i < 4; ++i) hash.word[first_word + 3 - i] = __builtin_bswap64(canonical(state.element[i]));
}

// The hash of header and nonce, from the state after absorbing the last of their three blocks and before its
// permutation.
inline U512 finish_hash(State state) {
    permute(state);
    state.element[0] = add(state.element[0], 1);  // end of bytes
    state.element[1] = add(state.element[1], 1);  // end of message
    permute(state);
    U512 hash;
    squeeze(hash, state, 4);
    permute(state);
    squeeze(hash, state, 0);
    return hash;
}

// The state after the header and the high half of the nonce.
inline State midstate(const uint8_t header[32], const uint8_t nonce[64]) {
    State state{};
    absorb(state, header);
    permute(state);
    absorb(state, nonce);
    permute(state);
    return state;
}

}  // namespace
