// The search loop, written once for all kernels.
//
// A kernel is a class with
//     Order       the order of its nonces, from order.hpp
//     lanes       number of consecutive positions that it tests at once, a power of two up to 32
//     poll        nonces between two checks of the stop flag, a multiple of lanes; at most about 0.2 ms of work
//     Kernel(const qm_job &)
//     seek(position) sets the start of the next batch, a multiple of lanes
//     next()      tests the next batch; bit i is set if its nonce i is valid. It need not treat nonce 0 specially.
// Batches are aligned, so none crosses the end of a span of the order. The loop seeks at the beginning of each span.
// The first and the last batch may reach beyond the slice.
#pragma once

#include <cstdint>

#include "order.hpp"
#include "quantus_miner.h"
#include "wide.hpp"

namespace {

template <class Kernel>
int search(const qm_job &job, U512 position, uint64_t count, qm_control *control, uint64_t *tested) {
    using Order = typename Kernel::Order;
    constexpr uint64_t lanes = Kernel::lanes, span = uint64_t{1} << Order::span_bits;
    static_assert(lanes <= 32 && (lanes & (lanes - 1)) == 0 && Kernel::poll % lanes == 0);
    Kernel kernel(job);
    const uint64_t hashes_before = __atomic_load_n(&control->hashes, __ATOMIC_RELAXED);

    for (*tested = 0; *tested < count;) {
        // The slice's part in this span: first .. end - 1.
        const uint64_t first = position.word[0] % span, left = count - *tested, before = *tested;
        const uint64_t end = left < span - first ? first + left : span;
        uint64_t low = first / lanes * lanes;
        position.word[0] = position.word[0] - first + low;
        kernel.seek(position);

        while (low < end) {
            if (__atomic_load_n(&control->stop, __ATOMIC_RELAXED)) return QM_STOPPED;
            const uint64_t pause = low + Kernel::poll < end ? low + Kernel::poll : end;
            for (; low < pause; low += lanes) {
                uint32_t valid = kernel.next();
                if (__builtin_expect(valid != 0, 0)) {
                    if (low < first) valid &= ~uint32_t{0} << (first - low);
                    if (low == 0 && is_zero(Order::nonce(position))) valid &= ~uint32_t{1};
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

        position.word[0] = position.word[0] / span * span;
        add(position, position, U512{{span}});
    }
    return QM_EXHAUSTED;
}

// The same in the order of the job, with a kernel template for any order.
template <template <class> class Kernel>
int search_in_order(const qm_job &job, const U512 &start, uint64_t count, qm_control *control, uint64_t *tested) {
    return job.order == QM_WALK ? search<Kernel<Walk>>(job, start, count, control, tested)
                                : search<Kernel<Counting>>(job, start, count, control, tested);
}

}  // namespace
