// What Python cannot do itself, for counting.py. Linux; single-stepping on x86-64.
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "quantus_miner.h"

typedef int search(int kernel, const qm_job *job, const uint8_t *start, uint64_t count, qm_control *control,
                   uint64_t *tested);

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

enum { PAGE = 4096, TRAP_FLAG = 0x100 };

static struct {
    uintptr_t base;
    size_t size;
    uint32_t *seen;
    int64_t steps;
    qm_control *control;
    int stop;  // at the first report of progress, instead of counting from there on
} count;

static void trapped(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uintptr_t address = (uintptr_t)registers[REG_RIP] - count.base;
    (void)number;
    if (info->si_code == SI_KERNEL) {  // int3
        registers[REG_EFL] &= ~TRAP_FLAG;
        return;
    }
    if (address < count.size) ++count.seen[address];
    ++count.steps;
}

// The first write to the control: a search reports its first nonces, its set-up lies behind it.
static void reported(int number, siginfo_t *info, void *context) {
    (void)info;
    if (mprotect(count.control, PAGE, PROT_READ | PROT_WRITE)) signal(number, SIG_DFL);
    if (count.stop)
        count.control->stop = 1;
    else
        ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

// Runs a search from its first report on for so many nonces more, with a trap after each instruction. Returns how
// many there were and adds to seen[a] how often the one at base + a was executed, for a < size; -1 without memory.
// The few instructions that end a search are counted too.
int64_t step(search *run, int kernel, const qm_job *job, const uint8_t *start, uint64_t nonces, uintptr_t base,
             size_t size, uint32_t *seen) {
    struct sigaction trap, fault, trap_before, fault_before;
    memset(&trap, 0, sizeof trap);
    trap.sa_flags = SA_SIGINFO;
    fault = trap;
    trap.sa_sigaction = trapped;
    fault.sa_sigaction = reported;
    count.base = base;
    count.size = size;
    count.seen = seen;
    count.steps = 0;
    count.control = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (count.control == MAP_FAILED) return -1;
    sigaction(SIGTRAP, &trap, &trap_before);
    sigaction(SIGSEGV, &fault, &fault_before);
    uint64_t first, tested;
    count.stop = 1;
    run(kernel, job, start, UINT32_MAX, count.control, &first);
    count.stop = 0;
    count.control->stop = 0;
    mprotect(count.control, PAGE, PROT_READ);
    run(kernel, job, start, first + nonces, count.control, &tested);
    __asm__ volatile("int3" ::: "memory");
    sigaction(SIGTRAP, &trap_before, NULL);
    sigaction(SIGSEGV, &fault_before, NULL);
    munmap(count.control, PAGE);
    return tested == first + nonces ? count.steps : -1;
}

#endif
