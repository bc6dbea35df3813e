// The work that the nonces of a span share, for kernels that run on other processors.
#include <cstdint>

#include "order.hpp"
#include "poseidon2_span.hpp"
#include "quantus_miner.h"
#include "wide.hpp"

namespace {

void write(const Start<Counting> &start, qm_span &out) {
    for (int i = 0; i < width; ++i) out.words[i] = start.before[i];
}

void write(const Start<Walk> &start, qm_span &out) {
    for (int i = 0; i < width; ++i) out.words[i] = start.rest[i];
    out.words[width] = start.before3;
    out.words[width + 1] = start.before7;
}

template <class Order>
void span_at(const qm_job &job, const U512 &position, qm_span &out) {
    Span<Order> span(job);
    out = {};
    write(Start<Order>(span.seek(position)), out);
    out.top_target = span.top_target();
    out.offset = span.offset(position);
}

}  // namespace

extern "C" int qm_span_at(const qm_job *job, const uint8_t position[64], qm_span *span) {
    const U512 at = load_be512(position);
    if (job->order == QM_COUNTING)
        span_at<Counting>(*job, at, *span);
    else if (job->order == QM_WALK && Walk::has(at))
        span_at<Walk>(*job, at, *span);
    else
        return QM_INVALID;
    return 0;
}
