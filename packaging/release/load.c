/* Loads a native core and searches with every kernel of this processor: load CORE. Prints where each finds a nonce. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "quantus_miner.h"

int main(int argc, char **argv) {
    void *core = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (!core) {
        fprintf(stderr, "%s\n", argc == 2 ? dlerror() : "usage: load CORE");
        return 1;
    }
    __typeof__(&qm_kernel_count) count = (__typeof__(&qm_kernel_count))dlsym(core, "qm_kernel_count");
    __typeof__(&qm_kernel_name) name = (__typeof__(&qm_kernel_name))dlsym(core, "qm_kernel_name");
    __typeof__(&qm_kernel_supported) supported = (__typeof__(&qm_kernel_supported))dlsym(core, "qm_kernel_supported");
    __typeof__(&qm_search) search = (__typeof__(&qm_search))dlsym(core, "qm_search");
    if (!count || !name || !supported || !search) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    /* One nonce in 4096 is valid for qpow-poseidon2, and for qpow-sha3, whose distances are below the modulus. */
    qm_job job = {.header = {1, 2, 3}, .order = QM_COUNTING};
    memset(job.target + 2, 0xff, sizeof job.target - 2);
    job.target[1] = 0x0f;
    memset(job.base, 0x5a, sizeof job.base);
    memset(job.modulus, 0xff, sizeof job.modulus);
    const uint8_t start[64] = {7};
    for (int kernel = 0; kernel < count(); kernel++) {
        qm_control control = {0};
        uint64_t tested = 0;
        if (supported(kernel)) {
            int outcome = search(kernel, &job, start, 1 << 20, &control, &tested);
            printf("%d %s %d %llu\n", kernel, name(kernel), outcome, (unsigned long long)tested);
        }
    }
    return 0;
}
