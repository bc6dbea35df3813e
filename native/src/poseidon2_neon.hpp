// Four lanes with NEON, in two registers, for poseidon2_vector.hpp.
//
// The multiplication takes its operands from 32-bit lanes. With two registers at a time, one instruction gathers the
// low or the high halves of four lanes; with one register at a time, it would take two instructions.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "goldilocks.hpp"

namespace {

struct Neon {
    struct Vec {
        uint64x2_t a, b;  // lanes 0 and 1, lanes 2 and 3

        Vec() = default;
        Vec(uint64_t value) : a(vdupq_n_u64(value)), b(a) {}
        Vec(uint64x2_t first, uint64x2_t second) : a(first), b(second) {}

        friend Vec operator+(Vec x, Vec y) { return {x.a + y.a, x.b + y.b}; }
        friend Vec operator-(Vec x, Vec y) { return {x.a - y.a, x.b - y.b}; }
        friend Vec operator&(Vec x, Vec y) { return {x.a & y.a, x.b & y.b}; }
        friend Vec operator<<(Vec x, int bits) { return {x.a << bits, x.b << bits}; }
        friend Vec operator>>(Vec x, int bits) { return {x.a >> bits, x.b >> bits}; }
        Vec &operator+=(Vec y) { return *this = *this + y; }
        Vec &operator-=(Vec y) { return *this = *this - y; }
    };

    // One half of each lane; for a Vec, the low half.
    struct Halves {
        uint32x4_t all;

        Halves(uint32x4_t halves) : all(halves) {}
        Halves(Vec x) : all(vuzp1q_u32(vreinterpretq_u32_u64(x.a), vreinterpretq_u32_u64(x.b))) {}
    };

    static constexpr int lanes = 4, lockstep = 2;
    static constexpr uint64_t bias = 0;

    static Vec set(uint64_t value) { return value; }
    static Vec lane_numbers() { return {uint64x2_t{0, 1}, uint64x2_t{2, 3}}; }
    static Halves high(Vec x) { return vuzp2q_u32(vreinterpretq_u32_u64(x.a), vreinterpretq_u32_u64(x.b)); }
    static Vec multiply(Halves x, Halves y) {
        return {vmull_u32(vget_low_u32(x.all), vget_low_u32(y.all)), vmull_high_u32(x.all, y.all)};
    }
    static Vec add_halves(Vec x) {
        return {vpaddlq_u32(vreinterpretq_u32_u64(x.a)), vpaddlq_u32(vreinterpretq_u32_u64(x.b))};
    }

    static Vec low_plus(Vec x, uint64_t n) { return {low_plus(x.a, n), low_plus(x.b, n)}; }

    static Vec biased(Vec x) { return x; }

    // Adding p is subtracting 2^32 - 1, modulo 2^64, which is the low half of the result of a true comparison.
    static Vec subtract(Vec x, Vec y) {
        const Vec difference = x - y;
        const Halves borrow = Vec{vcltq_u64(x.a, y.a), vcltq_u64(x.b, y.b)};
        return {vsubw_u32(difference.a, vget_low_u32(borrow.all)), vsubw_high_u32(difference.b, borrow.all)};
    }

    // Uses halves, so nothing carries: y is a product of halves, and (2^32 - 1)^2 + 2^32 - 1 < 2^64. A shift or product
    // and the addition after it are one instruction.
    static Vec add_carry(Vec &x, Vec y, Vec high) {
        high += x >> 32;
        x = (x & epsilon) + y;
        return high + (x >> 32);
    }

    static uint32_t not_above(Vec x, uint64_t target) {
        return not_above(x.a, target) | not_above(x.b, target) << 2;
    }

  private:
    static uint64x2_t low_plus(uint64x2_t x, uint64_t n) {
        const uint32x4_t high = vdupq_n_u32(static_cast<uint32_t>(n >> 32));
        return vreinterpretq_u64_u32(vtrn1q_u32(vreinterpretq_u32_u64(x), high));
    }
    static uint32_t not_above(uint64x2_t x, uint64_t target) {
        const uint64x2_t p = vdupq_n_u64(goldilocks_p), canonical = x - (vcgeq_u64(x, p) & p);
        const uint64x2_t top = vreinterpretq_u64_u8(vrev64q_u8(vreinterpretq_u8_u64(canonical)));
        return static_cast<uint32_t>(vaddvq_u64(vcleq_u64(top, vdupq_n_u64(target)) & uint64x2_t{1, 2}));
    }
};

}  // namespace
