// The search loop, written once for all kernels.
//
// A kernel is a class with
//     lanes       number of consecutive nonces that it tests at once, a power of two up to 32
//     poll        nonces between two looks at the stop flag, a multiple of lanes; at most about 0.2 ms of work
//     Kernel(const qm_job &)
//     seek(nonce) the next batch starts at this nonce, a multiple of lanes
//     next()      tests the next batch; bit i is set if its nonce i is valid. The zero nonce needs no care.
// Batches are aligned, so no batch crosses a multiple of 2^32, and the loop seeks wherever one is reached: between
// two seeks only the lowest 32 bits of the nonce change. The first and the last batch may reach beyond the slice.
#pragma once

#include <cstdint>

#include "quantus_miner.h"
#include "wide.hpp"

namespace {

template <class Kernel>
int search(const qm_job &job, U512 nonce, uint64_t count, qm_control *control, uint64_t *tested) {
    constexpr uint64_t lanes = Kernel::lanes, span = uint64_t{1} << 32;
    static_assert(lanes <= 32 && (lanes & (lanes - 1)) == 0 && Kernel::poll % lanes == 0);
    Kernel kernel(job);
    const uint64_t hashes_before = __atomic_load_n(&control->hashes, __ATOMIC_RELAXED);

    for (*tested = 0; *tested < count;) {
        // The slice's part in which only the low 32 bits change: first .. end - 1.
        const uint64_t first = nonce.word[0] % span, left = count - *tested, before = *tested;
        const uint64_t end = left < span - first ? first + left : span;
        uint64_t low = first / lanes * lanes;
        nonce.word[0] = nonce.word[0] - first + low;
        kernel.seek(nonce);

        while (low < end) {
            if (__atomic_load_n(&control->stop, __ATOMIC_RELAXED)) return QM_STOPPED;
            const uint64_t pause = low + Kernel::poll < end ? low + Kernel::poll : end;
            for (; low < pause; low += lanes) {
                uint32_t valid = kernel.next();
                if (__builtin_expect(valid != 0, 0)) {
                    if (low < first) valid &= ~uint32_t{0} << (first - low);
                    if (low == 0 && is_zero(nonce)) valid &= ~uint32_t{1};
                    const uint64_t winner = low + (valid ? static_cast<uint64_t>(__builtin_ctz(valid)) : lanes);
                    if (valid && winner < end) {
                        *tested = before + (winner - first) + 1;
                        __atomic_store_n(&control->hashes, hashes_before + *tested, __ATOMIC_RELAXED);
                        return QM_FOUND;
                    }
                }
            }
            *tested = before + ((low < end ? low : end) - first);
            __atomic_store_n(&control->hashes, hashes_before + *tested, __ATOMIC_RELAXED);
        }

        nonce.word[0] = nonce.word[0] / span * span;
        add(nonce, nonce, U512{{span}});
    }
    return QM_EXHAUSTED;
}

}  // namespace
