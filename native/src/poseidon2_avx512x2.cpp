// Two groups of two vectors at once: more independent work than avx512, for processors that start four vector
// instructions a cycle. poseidon2_avx512.hpp has the instructions, poseidon2_vector.hpp the arithmetic.
#include "poseidon2_avx512.hpp"

#include "kernels.hpp"
#include "poseidon2_pair.hpp"
#include "poseidon2_vector.hpp"
#include "search.hpp"

namespace {

template <class Order>
using Kernel = Poseidon2Vector<Pair<Avx512>, Order>;

}  // namespace

int search_poseidon2_avx512x2(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search_in_order<Kernel>(job, start, count, control, tested);
}
