// 512-bit integers: nonces, hashes, targets.
#pragma once

#include <cstdint>

struct U512 {
    uint64_t word[8];  // least significant first
};

// All functions in these headers have internal linkage: each kernel file gets its own copy, so that one
// compiled for a newer instruction set can never end up in a kernel that runs everywhere.
namespace {

__extension__ using u128 = unsigned __int128;

inline uint64_t load_be64(const uint8_t *bytes) {
    uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | bytes[i];
    return value;
}

inline void store_be64(uint8_t *bytes, uint64_t value) {
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(value >> (56 - 8 * i));
}

inline U512 load_be512(const uint8_t bytes[64]) {
    U512 value;
    for (int i = 0; i < 8; ++i) value.word[7 - i] = load_be64(bytes + 8 * i);
    return value;
}

inline void store_be512(uint8_t bytes[64], const U512 &value) {
    for (int i = 0; i < 8; ++i) store_be64(bytes + 8 * i, value.word[7 - i]);
}

// A 256-bit integer, widened.
inline U512 load_be256(const uint8_t bytes[32]) {
    U512 value{};
    for (int i = 0; i < 4; ++i) value.word[3 - i] = load_be64(bytes + 8 * i);
    return value;
}

// sum = a + b modulo 2^512; returns the carry. sum may be a or b. __builtin_add_overflow would not allow that with
// gcc 12: it stores through a pointer and then reads its operands again for the carry.
inline bool add(U512 &sum, const U512 &a, const U512 &b) {
    u128 partial = 0;
    for (int i = 0; i < 8; ++i) {
        partial = static_cast<u128>(a.word[i]) + b.word[i] + static_cast<uint64_t>(partial >> 64);
        sum.word[i] = static_cast<uint64_t>(partial);
    }
    return partial >> 64;
}

// difference = a - b modulo 2^512; returns the borrow, that is a < b. difference may be a or b.
inline bool subtract(U512 &difference, const U512 &a, const U512 &b) {
    u128 partial = 0;
    for (int i = 0; i < 8; ++i) {
        partial = static_cast<u128>(a.word[i]) - b.word[i] - (static_cast<uint64_t>(partial >> 64) & 1);
        difference.word[i] = static_cast<uint64_t>(partial);
    }
    return partial >> 64;
}

inline bool less_or_equal(const U512 &a, const U512 &b) {
    U512 difference;
    return !subtract(difference, b, a);
}

inline bool is_zero(const U512 &a) {
    uint64_t any = 0;
    for (uint64_t word : a.word) any |= word;
    return any == 0;
}

constexpr U512 max512{{~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0},
                       ~uint64_t{0}, ~uint64_t{0}}};

}  // namespace
