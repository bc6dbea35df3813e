// A probe is the same for all instruction sets; each has a file of its own for its compile flags.
#pragma once

#include <cstring>

#include "poseidon2_probe.hpp"
#include "poseidon2_vector.hpp"

namespace {

template <class V>
typename V::Vec load(const uint64_t *lanes) {
    typename V::Vec x;
    std::memcpy(&x, lanes, sizeof x);
    return x;
}

template <class V>
void store(uint64_t *lanes, typename V::Vec x) {
    std::memcpy(lanes, &x, sizeof x);
}

template <class V>
constexpr Poseidon2Probe probe(const char *name) {
    return {name,
            V::lanes,
            [](uint64_t *x) { store<V>(x, square<V>(load<V>(x))); },
            [](uint64_t *x, const uint64_t *y) { store<V>(x, multiply<V>(load<V>(x), load<V>(y))); },
            [](uint64_t *low, uint64_t *high) {
                typename V::Vec l, h;
                limb_product<V>(load<V>(low), load<V>(high), l, h);
                store<V>(low, l);
                store<V>(high, h);
            },
            [](uint64_t *low, const uint64_t *high, uint64_t constant) {
                store<V>(low, recombine<V>(load<V>(low), load<V>(high), constant));
            },
            [](uint64_t *x) {
                Group<V> g;
                for (int i = 0; i < width; ++i) g.x[i] = load<V>(x + V::lanes * i);
                start_sums(g);
                for (int i = 1; i < width; ++i) count_element(g, i);
                add_sum<V>(g, g.x[0], constants[0].low0[0], constants[0].high0[0]);
                scale_elements<V>(g, std::make_integer_sequence<int, width>{});
                for (int i = 0; i < width; ++i) store<V>(x + V::lanes * i, g.x[i]);
            },
            [](uint64_t *x) {
                constexpr uint64_t none[width] = {};
                Group<V> g;
                for (int i = 0; i < width; ++i) g.x[i] = load<V>(x + V::lanes * i);
                external_step<V>(g, none);
                for (int i = 0; i < width; ++i) store<V>(x + V::lanes * i, g.x[i]);
            },
            [](const uint64_t *x, uint64_t target) { return V::not_above(load<V>(x), target); }};
}

}  // namespace
