// Two groups of four nonces at once; poseidon2_avx512vl.hpp has the instructions, poseidon2_vector.hpp the arithmetic.
#include "poseidon2_avx512vl.hpp"

#include "kernels.hpp"
#include "poseidon2_vector.hpp"
#include "search.hpp"

namespace {

template <class Order>
using Kernel = Poseidon2Vector<Avx512vl, Order>;

}  // namespace

int search_poseidon2_avx512vl(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search_in_order<Kernel>(job, start, count, control, tested);
}
