// What Python cannot do itself, for counting.py. Linux; single-stepping on x86-64.
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

typedef int search(int kernel, const void *job, const uint8_t *start, uint64_t count, void *control, uint64_t *tested);

// A chain of additions, 64 a turn, each of which waits for the one before it: one core cycle each. The empty asm
// keeps the compiler from adding up, and y in a register: processors drop additions of constants.
uint64_t add_chain(uint64_t turns, uint64_t x, uint64_t y) {
#define ADD x += y; __asm__ volatile("" : "+r"(x), "+r"(y));
#define ADD8 ADD ADD ADD ADD ADD ADD ADD ADD
    while (turns--) { ADD8 ADD8 ADD8 ADD8 ADD8 ADD8 ADD8 ADD8 }
    return x;
}

// A counter of what this thread does outside the kernel, to be read as 8 bytes; -1 where there is none.
int open_counter(uint32_t type, uint64_t config) {
    struct perf_event_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.size = sizeof attributes;
    attributes.type = type;
    attributes.config = config;
    attributes.exclude_kernel = attributes.exclude_hv = 1;
    return (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

#ifdef __x86_64__

static struct {
    uintptr_t base;
    size_t size;
    uint32_t *seen;
    int64_t steps;
} count;

static void trapped(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)number;
    if (info->si_code == SI_KERNEL) {  // int3 begins and ends it
        registers[REG_EFL] ^= 0x100;    // the processor's trap flag
        return;
    }
    const uintptr_t address = (uintptr_t)registers[REG_RIP] - count.base;
    if (address < count.size) ++count.seen[address];
    ++count.steps;
}

// Runs one search with a trap after each instruction. Returns how many there were and adds to seen[a] how often the
// one at base + a was executed, for a < size. The few instructions around the search are counted too.
int64_t step(search *run, int kernel, const void *job, const uint8_t *start, uint64_t nonces, void *control,
             uint64_t *tested, uintptr_t base, size_t size, uint32_t *seen) {
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = trapped;
    action.sa_flags = SA_SIGINFO;
    count.base = base;
    count.size = size;
    count.seen = seen;
    count.steps = 0;
    sigaction(SIGTRAP, &action, &before);
    __asm__ volatile("int3" ::: "memory");
    run(kernel, job, start, nonces, control, tested);
    __asm__ volatile("int3" ::: "memory");
    sigaction(SIGTRAP, &before, NULL);
    return count.steps;
}

#endif
