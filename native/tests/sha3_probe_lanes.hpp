// A probe is the same for all instruction sets; each has a file of its own for its compile flags.
#pragma once

#include "sha3_lanes.hpp"
#include "sha3_probe.hpp"

namespace {

template <class Set>
void probe_multiply(U512 *y, const U512 &w, const U512 &n) {
    Lanes<Set> lanes;
    for (int i = 0; i < lanes.count; ++i) lanes.set(i, y[i]);
    Set::multiply(lanes.limb, {w, n});
    for (int i = 0; i < lanes.count; ++i) y[i] = lanes.get(i);
}

template <class Set>
void probe_sha3_512_top(uint64_t *top, const U512 *y) {
    Lanes<Set> lanes;
    for (int i = 0; i < lanes.count; ++i) lanes.set(i, y[i]);
    const typename Set::Vector tops = lanes.sha3_512_top();
    for (int i = 0; i < lanes.count; ++i) top[i] = tops[i];
}

template <class Set>
constexpr Sha3Probe probe(const char *name) {
    return {name, Lanes<Set>::count, probe_multiply<Set>, probe_sha3_512_top<Set>};
}

}  // namespace
