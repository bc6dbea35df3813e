// The functions of the ABI, and the kernel table.
#include <cstdint>
#include <cstring>

#include "cpu.hpp"
#include "kernels.hpp"
#include "order.hpp"
#include "quantus_miner.h"
#include "wide.hpp"

namespace {

bool anywhere() {
    return true;
}

struct Kernel {
    qm_pow pow;
    const char *name;
    bool (*supported)();
    Search *search;
};

// The kernels of each proof of work, from the slowest to the fastest.
constexpr Kernel kernels[] = {
    {QM_POSEIDON2, "baseline", anywhere, search_poseidon2_baseline},
    {QM_POSEIDON2, "scalar", anywhere, search_poseidon2_scalar},
#ifdef __x86_64__
    {QM_POSEIDON2, "avx2", cpu_has_avx2, search_poseidon2_avx2},
    {QM_POSEIDON2, "avx512vl", cpu_has_avx512, search_poseidon2_avx512vl},
    {QM_POSEIDON2, "avx512x2", cpu_has_avx512, search_poseidon2_avx512x2},
    {QM_POSEIDON2, "avx512", cpu_has_avx512, search_poseidon2_avx512},
#endif
#ifdef __aarch64__
    {QM_POSEIDON2, "neon", anywhere, search_poseidon2_neon},
#endif
    {QM_SHA3, "baseline", anywhere, search_sha3_baseline},
    {QM_SHA3, "scalar", anywhere, search_sha3_scalar},
#ifdef __x86_64__
    {QM_SHA3, "avx2", cpu_has_avx2, search_sha3_avx2},
    {QM_SHA3, "avx512bw", cpu_has_avx512, search_sha3_avx512bw},
    {QM_SHA3, "avx512", cpu_has_avx512_ifma, search_sha3_avx512},
#endif
};

constexpr int kernel_count = sizeof kernels / sizeof *kernels;

bool is_kernel(int kernel) {
    return kernel >= 0 && kernel < kernel_count;
}

// True if the modulus is odd and above the base.
bool is_modulus(const qm_job &job) {
    U512 difference;
    return (job.modulus[63] & 1) && subtract(difference, load_be256(job.base), load_be512(job.modulus));
}

bool is_slice(uint32_t order, const U512 &start, uint64_t count) {
    U512 last;
    if (count == 0 || add(last, start, U512{{count - 1}})) return false;
    return order == QM_COUNTING || (order == QM_WALK && Walk::has(last));
}

}  // namespace

extern "C" {

uint32_t qm_abi_version(void) {
    return QM_ABI_VERSION;
}

int qm_kernel_count(void) {
    return kernel_count;
}

int qm_kernel_pow(int kernel) {
    return is_kernel(kernel) ? int{kernels[kernel].pow} : int{QM_INVALID};
}

const char *qm_kernel_name(int kernel) {
    return is_kernel(kernel) ? kernels[kernel].name : "";
}

int qm_kernel_supported(int kernel) {
    return is_kernel(kernel) && kernels[kernel].supported();
}

int qm_search(int kernel, const qm_job *job, const uint8_t start[64], uint64_t count, qm_control *control,
              uint64_t *tested) {
    *tested = 0;
    const U512 first = load_be512(start);
    if (!qm_kernel_supported(kernel) || !is_slice(job->order, first, count)) return QM_INVALID;
    if (kernels[kernel].pow == QM_SHA3 && (job->order != QM_COUNTING || !is_modulus(*job))) return QM_INVALID;
    return kernels[kernel].search(*job, first, count, control, tested);
}

void qm_control_reset(qm_control *control) {
    __atomic_store_n(&control->hashes, uint64_t{0}, __ATOMIC_RELAXED);
    __atomic_store_n(&control->stop, uint32_t{0}, __ATOMIC_RELAXED);
}

void qm_control_stop(qm_control *control) {
    __atomic_store_n(&control->stop, uint32_t{1}, __ATOMIC_RELAXED);
}

uint64_t qm_control_hashes(const qm_control *control) {
    return __atomic_load_n(&control->hashes, __ATOMIC_RELAXED);
}

}  // extern "C"
