// The Goldilocks field, p = 2^64 - 2^32 + 1, in portable scalar code.
//
// An element is any uint64_t, canonical (< p) or not; it stands for its residue modulo p. Every function is
// exact for every input in the range that it states. 2^64 = 2^32 - 1 and 2^96 = -1 modulo p.
#pragma once

#include <cstdint>

#include "wide.hpp"

namespace {

constexpr uint64_t goldilocks_p = 0xffffffff00000001;
constexpr uint64_t epsilon = 0xffffffff;  // 2^64 mod p

// x: any. Returns the residue, < p.
// x < 2^64 < 2p, so one subtraction is enough.
inline uint64_t canonical(uint64_t x) {
    return x >= goldilocks_p ? x - goldilocks_p : x;
}

// x < 2^96. Returns any.
// x = lo + 2^64 hi, hi <= 2^32 - 1: product = hi * epsilon <= 2^64 - 2^33 + 1. If lo + product carries, the rest
// is <= (2^64 - 1) + (2^64 - 2^33 + 1) - 2^64 = 2^64 - 2^33, and the carry's epsilon still fits.
inline uint64_t reduce96(u128 x) {
    const uint64_t product = static_cast<uint64_t>(x >> 64) * epsilon;
    uint64_t result;
    const bool carry = __builtin_add_overflow(static_cast<uint64_t>(x), product, &result);
    return result + static_cast<uint32_t>(-static_cast<int32_t>(carry));
}

// x: any. Returns any.
// x = lo + 2^64 mid + 2^96 top = lo - top + epsilon * mid. If lo - top borrows, it wraps to at least
// 2^64 - (2^32 - 1), so subtracting the borrow's epsilon does not wrap again. The rest is as in reduce96.
inline uint64_t reduce128(u128 x) {
    const uint64_t high = static_cast<uint64_t>(x >> 64);
    uint64_t low;
    // This happens once in 2^32: a branch costs less than arithmetic.
    if (__builtin_expect(__builtin_sub_overflow(static_cast<uint64_t>(x), high >> 32, &low), 0)) low -= epsilon;
    const uint64_t product = (high & epsilon) * epsilon;
    uint64_t result;
    const bool carry = __builtin_add_overflow(low, product, &result);
    return result + static_cast<uint32_t>(-static_cast<int32_t>(carry));
}

// a, b: any. Returns any. a + b < 2^65.
inline uint64_t add(uint64_t a, uint64_t b) {
    return reduce96(static_cast<u128>(a) + b);
}

// a, b: any. Returns any.
inline uint64_t mul(uint64_t a, uint64_t b) {
    return reduce128(static_cast<u128>(a) * b);
}

// a, b, c: any. Returns a * b + c, any. (2^64 - 1)^2 + 2^64 - 1 < 2^128.
inline uint64_t mul_add(uint64_t a, uint64_t b, uint64_t c) {
    return reduce128(static_cast<u128>(a) * b + c);
}

// x: any. Returns x^7, any.
inline uint64_t seventh_power(uint64_t x) {
    const uint64_t x2 = mul(x, x);
    return mul(mul(x2, x), mul(x2, x2));
}

}  // namespace
