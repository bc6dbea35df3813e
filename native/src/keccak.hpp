// SHA3-512 of messages of 64 bytes, which are a single block and take a single Keccak-f[1600]. The same code hashes one
// message or many at a time: a Lane is an integer of 64 bits, or a vector of them with one message per element.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

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

constexpr uint64_t sha3_512_padding = 0x8000000000000006;  // lane 8: the domain bits, the end of a rate of 72 bytes

template <int by, class Lane>
inline Lane rotate_left(Lane value) {
    if constexpr (by == 0) return value;
    else return value << by | value >> (64 - by);
}

template <class Lane>
inline Lane exclusive_or(Lane a, Lane b, Lane c) {
    return a ^ b ^ c;
}

// a ^ (~b & c)
template <class Lane>
inline Lane chi(Lane a, Lane b, Lane c) {
    return a ^ (~b & c);
}

// Forced inline: otherwise gcc calls some of the unrolled bodies and keeps their shared values in memory.
#define QM_INLINE __attribute__((always_inline))

// Calls body(0), ... body(count - 1) with constants: vectors are rotated by constants only.
template <class Body, size_t... i>
QM_INLINE inline void unroll(std::index_sequence<i...>, const Body &body) {
    (body(std::integral_constant<int, static_cast<int>(i)>{}), ...);
}

template <int count, class Body>
QM_INLINE inline void unroll(const Body &body) {
    unroll(std::make_index_sequence<static_cast<size_t>(count)>{}, body);
}

// The values that theta adds to the columns.
template <class Lane>
QM_INLINE inline void keccak_theta(Lane (&d)[5], const Lane (&a)[25]) {
    Lane c[5];
    unroll<5>([&](auto x) QM_INLINE {
        c[x] = exclusive_or(exclusive_or(a[x], a[x + 5], a[x + 10]), a[x + 15], a[x + 20]);
    });
    unroll<5>([&](auto x) QM_INLINE { d[x] = c[(x + 4) % 5] ^ rotate_left<1>(c[(x + 1) % 5]); });
}

// Theta, rho, pi, chi. The caller does iota.
template <class Lane>
QM_INLINE inline void keccak_round(Lane (&e)[25], const Lane (&a)[25]) {
    Lane d[5];
    keccak_theta(d, a);
    unroll<5>([&](auto row) QM_INLINE {
        Lane b[5];
        // Pi moves lane (x, y) to (y, 2 x + 3 y): the lane at (y, row) comes from x = row + 3 (y - row).. mod 5.
        unroll<5>([&](auto y) QM_INLINE {
            constexpr int x = (y + 3 * row) % 5, from = x + 5 * y;
            b[y] = rotate_left<keccak_rotations[from]>(a[from] ^ d[x]);
        });
        unroll<5>([&](auto x) QM_INLINE { e[x + 5 * row] = chi(b[x], b[(x + 1) % 5], b[(x + 2) % 5]); });
    });
}

template <class Lane>
inline void keccak_f(Lane (&a)[25]) {
    Lane e[25];
    for (int i = 0; i < 24; i += 2) {
        keccak_round(e, a);
        e[0] ^= keccak_round_constants[i];
        keccak_round(a, e);
        a[0] ^= keccak_round_constants[i + 1];
    }
}

// Lane 0 after keccak_f. The first round is separate, so that the compiler can leave out its work on zero lanes. The
// last round computes only what lane 0 needs.
template <class Lane>
inline Lane keccak_first(Lane (&a)[25]) {
    Lane e[25];
    keccak_round(e, a);
    e[0] ^= keccak_round_constants[0];
    for (int i = 1; i < 23; i += 2) {
        keccak_round(a, e);
        a[0] ^= keccak_round_constants[i];
        keccak_round(e, a);
        e[0] ^= keccak_round_constants[i + 1];
    }
    Lane d[5];
    keccak_theta(d, e);
    return chi(e[0] ^ d[0], rotate_left<keccak_rotations[6]>(e[6] ^ d[1]),
               rotate_left<keccak_rotations[12]>(e[12] ^ d[2])) ^
           keccak_round_constants[23];
}

// Message and digest as big-endian integers. Lanes are little-endian: lane 0 is the message's first 8 bytes.
inline void sha3_512_absorb(uint64_t (&state)[25], const U512 &message) {
    for (int i = 0; i < 8; ++i) state[i] = __builtin_bswap64(message.word[7 - i]);
    state[8] = sha3_512_padding;
    for (int i = 9; i < 25; ++i) state[i] = 0;
}

inline U512 sha3_512(const U512 &message) {
    uint64_t state[25];
    sha3_512_absorb(state, message);
    keccak_f(state);
    U512 digest;
    for (int i = 0; i < 8; ++i) digest.word[7 - i] = __builtin_bswap64(state[i]);
    return digest;
}

// The 64 most significant bits of the digest.
inline uint64_t sha3_512_top(const U512 &message) {
    uint64_t state[25];
    sha3_512_absorb(state, message);
    return __builtin_bswap64(keccak_first(state));
}

}  // namespace
