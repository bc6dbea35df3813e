// Four nonces at once; sha3_avx2.hpp has the arithmetic.
#include "sha3_avx2.hpp"

#include "kernels.hpp"
#include "search.hpp"
#include "sha3_lanes.hpp"

int search_sha3_avx2(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search<Sha3Lanes<Avx2>>(job, start, count, control, tested);
}
