// Two vectors as one, for poseidon2_vector.hpp: each instruction on one is followed by the same on the other, so a
// processor finds two independent chains of instructions however little it looks ahead.
#pragma once

#include <cstdint>

namespace {

template <class V>
struct Pair {
    struct Vec {
        typename V::Vec a, b;

        Vec() = default;
        Vec(uint64_t value) : a(V::set(value)), b(V::set(value)) {}
        Vec(typename V::Vec first, typename V::Vec second) : a(first), b(second) {}
        friend Vec operator+(Vec x, Vec y) { return {x.a + y.a, x.b + y.b}; }
        friend Vec operator-(Vec x, Vec y) { return {x.a - y.a, x.b - y.b}; }
        friend Vec operator&(Vec x, Vec y) { return {x.a & y.a, x.b & y.b}; }
        friend Vec operator<<(Vec x, int bits) { return {x.a << bits, x.b << bits}; }
        friend Vec operator>>(Vec x, int bits) { return {x.a >> bits, x.b >> bits}; }
        Vec &operator+=(Vec y) { return *this = *this + y; }
        Vec &operator-=(Vec y) { return *this = *this - y; }
    };

    static constexpr int lanes = 2 * V::lanes, lockstep = V::lockstep / 2;
    static constexpr uint64_t bias = V::bias;

    static Vec set(uint64_t value) { return value; }
    static Vec lane_numbers() { return {V::lane_numbers(), V::lane_numbers() + static_cast<uint64_t>(V::lanes)}; }
    static Vec high(Vec x) { return {V::high(x.a), V::high(x.b)}; }
    static Vec multiply(Vec x, Vec y) { return {V::multiply(x.a, y.a), V::multiply(x.b, y.b)}; }
    static Vec add_halves(Vec x) { return {V::add_halves(x.a), V::add_halves(x.b)}; }
    static Vec low_plus(Vec x, uint64_t n) { return {V::low_plus(x.a, n), V::low_plus(x.b, n)}; }
    static Vec biased(Vec x) { return {V::biased(x.a), V::biased(x.b)}; }
    static Vec subtract(Vec x, Vec y) { return {V::subtract(x.a, y.a), V::subtract(x.b, y.b)}; }
    static Vec add_carry(Vec &x, Vec y, Vec high) {
        return {V::add_carry(x.a, y.a, high.a), V::add_carry(x.b, y.b, high.b)};
    }
    static uint32_t not_above(Vec x, uint64_t target) {
        return V::not_above(x.a, target) | V::not_above(x.b, target) << V::lanes;
    }
};

}  // namespace
