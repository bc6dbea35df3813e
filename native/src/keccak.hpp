// SHA3-512 of one message of 64 bytes: a single block, a single Keccak-f[1600].
#pragma once

#include <cstdint>

#include "wide.hpp"

namespace {

constexpr uint64_t keccak_round_constants[24] = {
    0x0000000000000001, 0x0000000000008082, 0x800000000000808a, 0x8000000080008000, 0x000000000000808b,
    0x0000000080000001, 0x8000000080008081, 0x8000000000008009, 0x000000000000008a, 0x0000000000000088,
    0x0000000080008009, 0x000000008000000a, 0x000000008000808b, 0x800000000000008b, 0x8000000000008089,
    0x8000000000008003, 0x8000000000008002, 0x8000000000000080, 0x000000000000800a, 0x800000008000000a,
    0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008};

// The rotation of lane x + 5 y.
constexpr int keccak_rotations[25] = {0,  1,  62, 28, 27, 36, 44, 6,  55, 20, 3,  10, 43,
                                      25, 39, 41, 45, 15, 21, 8,  18, 2,  61, 56, 14};

inline uint64_t rotate_left(uint64_t value, int by) {
    return value << (by & 63) | value >> (-by & 63);
}

inline void keccak_f(uint64_t (&a)[25]) {
    for (uint64_t constant : keccak_round_constants) {
        uint64_t c[5], b[25];
#pragma GCC unroll 5
        for (int x = 0; x < 5; ++x) c[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
#pragma GCC unroll 5
        for (int x = 0; x < 5; ++x) {
            const uint64_t d = c[(x + 4) % 5] ^ rotate_left(c[(x + 1) % 5], 1);
#pragma GCC unroll 5
            for (int y = 0; y < 5; ++y)
                b[y + 5 * ((2 * x + 3 * y) % 5)] = rotate_left(a[x + 5 * y] ^ d, keccak_rotations[x + 5 * y]);
        }
#pragma GCC unroll 5
        for (int y = 0; y < 25; y += 5)
#pragma GCC unroll 5
            for (int x = 0; x < 5; ++x) a[x + y] = b[x + y] ^ (~b[(x + 1) % 5 + y] & b[(x + 2) % 5 + y]);
        a[0] ^= constant;
    }
}

// Message and digest as big-endian integers. Lanes are little-endian: lane 0 is the message's first 8 bytes.
inline U512 sha3_512(const U512 &message) {
    uint64_t state[25] = {};
    for (int i = 0; i < 8; ++i) state[i] = __builtin_bswap64(message.word[7 - i]);
    state[8] = 0x8000000000000006;  // the domain bits and the padding of a rate of 72 bytes
    keccak_f(state);
    U512 digest;
    for (int i = 0; i < 8; ++i) digest.word[7 - i] = __builtin_bswap64(state[i]);
    return digest;
}

}  // namespace
