/* What gpu/cuda.py calls of the CUDA driver, without a card: it checks what it is given, and finds candidates at fixed
 * offsets. Two cards of compute capability 8.9; a launch of 666 nonces breaks the context until it is reset. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, LAUNCH_FAILED = 719 };
enum { BUS = 33, SLOT = 34, DOMAIN = 50, MULTIPROCESSORS = 16, MAJOR = 75, MINOR = 76, MAX_HITS = 255 };

static int broken, retained;
static __thread void *current;
static char context, module, walk, counting, stream;

static int ready(void) {
    if (current != &context || !retained) return INVALID_CONTEXT;
    return broken ? LAUNCH_FAILED : SUCCESS;
}

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = 12080, SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = 2, SUCCESS; }
int cuDeviceGet(int *device, int index) { return *device = index, index < 2 ? SUCCESS : INVALID_VALUE; }
int cuDeviceGetByPCIBusId(int *device, const char *address) {
    unsigned bus = 0;
    if (sscanf(address, "0000:%x:00.0", &bus) != 1) return INVALID_VALUE;
    return *device = (int)bus - 0x65, *device >= 0 && *device < 2 ? SUCCESS : INVALID_VALUE;
}
int cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "Card %d", device), SUCCESS; }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
        case DOMAIN: case SLOT: return *value = 0, SUCCESS;
        case BUS: return *value = 0x65 + device, SUCCESS;
        case MULTIPROCESSORS: return *value = 132, SUCCESS;
        case MAJOR: return *value = 8, SUCCESS;
        case MINOR: return *value = 9, SUCCESS;
        default: return INVALID_VALUE;
    }
}

int cuDevicePrimaryCtxRetain(void **found, int device) { return (void)device, ++retained, *found = &context, SUCCESS; }
int cuDevicePrimaryCtxReset(int device) { return (void)device, broken = 0, SUCCESS; }
int cuDevicePrimaryCtxRelease(int device) { return (void)device, retained-- > 0 ? SUCCESS : INVALID_CONTEXT; }
int cuCtxSetCurrent(void *wanted) { return current = wanted, SUCCESS; }

int cuModuleLoadData(void **found, const void *image) {
    return *found = &module, memcmp(image, "\177ELF", 4) ? INVALID_VALUE : ready();
}

int cuModuleGetFunction(void **found, void *of, const char *name) {
    if (of != &module) return INVALID_HANDLE;
    *found = !strcmp(name, "search_walk") ? &walk : !strcmp(name, "search_counting") ? &counting : NULL;
    return *found ? ready() : NOT_FOUND;
}

int cuStreamCreate(void **found, unsigned flags) { return *found = &stream, flags == 1 ? ready() : INVALID_VALUE; }
int cuMemAlloc(uint64_t *found, size_t size) { return *found = (uint64_t)malloc(size), ready(); }
int cuMemHostAlloc(void **found, size_t size, unsigned flags) { return *found = malloc(size), flags ? INVALID_VALUE : ready(); }
int cuEventCreate(void **found, unsigned flags) { return *found = malloc(1), flags == 1 ? ready() : INVALID_VALUE; }
int cuEventRecord(void *event, void *on) { return event && on == &stream ? ready() : INVALID_HANDLE; }
int cuEventSynchronize(void *event) { return event ? ready() : INVALID_HANDLE; }

int cuEventElapsedTime(float *milliseconds, void *began, void *ended) {
    return *milliseconds = 1.5f, began != ended ? ready() : INVALID_HANDLE;
}

int cuMemsetD32Async(uint64_t target, unsigned value, size_t count, void *on) {
    for (size_t i = 0; i < count; ++i) ((uint32_t *)target)[i] = value;
    return on == &stream ? ready() : INVALID_HANDLE;
}

int cuMemcpyDtoHAsync(void *target, uint64_t source, size_t size, void *on) {
    return memcpy(target, (void *)source, size), on == &stream ? ready() : INVALID_HANDLE;
}

int cuLaunchKernel(void *kernel, unsigned blocks, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, void *on, void **arguments, void **extra) {
    if (blocks == 0 || threads != 256 || y * z * ty * tz != 1 || shared || extra) return INVALID_VALUE;
    if ((kernel != &walk && kernel != &counting) || on != &stream) return INVALID_HANDLE;
    for (uint64_t i = 0; i < 14; ++i)
        if (*(uint64_t *)arguments[i] != UINT64_MAX - i) return INVALID_VALUE;
    if (*(uint64_t *)arguments[14] != UINT64_MAX - 99) return INVALID_VALUE;
    const uint64_t first = *(uint32_t *)arguments[15], count = *(uint32_t *)arguments[16];
    uint32_t *hits = *(uint32_t **)arguments[17];
    for (uint64_t offset = first; offset < first + count; ++offset)
        if (offset % (kernel == &walk ? 1000 : 7) == 0 && hits[0]++ < MAX_HITS) hits[hits[0]] = (uint32_t)offset;
    if (count == 666) broken = 1;
    return SUCCESS;
}

/* The bindings ask for every function by name; what is not here is not called. */
int cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    (void)version, (void)flags, (void)status;
    Dl_info self;
    dladdr(&context, &self);
    *found = dlsym(dlopen(self.dli_fname, RTLD_LAZY), name);
    return *found ? SUCCESS : NOT_FOUND;
}

int cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, found, version, flags, NULL);
}
