// Eight nonces at once; sha3_avx512bw.hpp has the instructions, sha3_limbs29.hpp the product.
#include "sha3_avx512bw.hpp"

#include "kernels.hpp"
#include "search.hpp"
#include "sha3_lanes.hpp"
#include "sha3_limbs29.hpp"

int search_sha3_avx512bw(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search<Sha3Lanes<Limbs29<Avx512bw>>>(job, start, count, control, tested);
}
