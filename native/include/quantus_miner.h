/* The C ABI of the native search core. Thread-safe; no global state; no Python.
 *
 * Multi-byte integers in byte arrays are big-endian, as in the proof-of-work specifications.
 * The part between the two "cdef" marks is what the Python binding is generated from. */
#ifndef QUANTUS_MINER_H
#define QUANTUS_MINER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default) /* all else in the library is hidden */

/* begin cdef */

/* Increased with every change of this header. The binding refuses other versions. */
#define QM_ABI_VERSION 5

enum qm_pow { QM_POSEIDON2 = 0, QM_SHA3 = 1 };

/* Nonce order: which nonce is at which position of a search. */
enum qm_order {
    QM_COUNTING = 0, /* nonce = position, below 2^512 */
    QM_WALK = 1      /* qpow-poseidon2 only; position 2^27 w + k, below 2^283, is step k of walk w: the nonce's high
                        32 bytes are w, its low 32 bytes eight little-endian integers of 4 bytes, 17 k, E - 11 k, 3 k,
                        E - 4 k, E - 17 k, 11 k, E - 3 k, 4 k with E = 2^32 - 1 */
};

enum qm_outcome {
    QM_EXHAUSTED = 0, /* every nonce of the slice was tested, none is valid */
    QM_FOUND = 1,     /* the last nonce tested is valid, all before it are not */
    QM_STOPPED = 2,   /* qm_control_stop was noticed; the nonces tested so far are not valid */
    QM_INVALID = -1   /* no such kernel, or not supported here; a slice that is empty or passes the last position; an invalid order, base or modulus */
};

/* One job as a kernel sees it. A nonce is valid if it is not zero and its hash (qpow-poseidon2)
 * or distance (qpow-sha3) is <= target. */
typedef struct {
    uint8_t header[32]; /* mining hash */
    uint8_t target[64]; /* the largest valid hash or distance */
    uint8_t base[32];   /* qpow-sha3 only: m, below modulus */
    uint8_t modulus[64]; /* qpow-sha3 only: n, odd */
    uint32_t order;     /* enum qm_order */
} qm_job;

/* Shared by the thread that searches and the threads that watch it. */
typedef struct {
    uint64_t hashes; /* nonces tested since the last reset; grows while a search runs */
    uint32_t stop;   /* non-zero: return as soon as possible */
    uint32_t padding[13]; /* a cache line of its own */
} qm_control;

uint32_t qm_abi_version(void);

/* Kernels are numbered 0 .. qm_kernel_count() - 1, of one proof of work from the slowest to the fastest. */
int qm_kernel_count(void);
int qm_kernel_pow(int kernel);          /* enum qm_pow */
const char *qm_kernel_name(int kernel); /* "baseline", "scalar", ...; unique within a proof of work */
int qm_kernel_supported(int kernel);    /* 1 if this processor and operating system can run it, else 0 */

/* Test the nonces at positions start, start + 1, ... start + count - 1 and stop at the first valid one. Sets *tested
 * to the number of nonces tested. Notices a stop within 2 ms. count >= 1. */
int qm_search(int kernel, const qm_job *job, const uint8_t start[64], uint64_t count, qm_control *control,
              uint64_t *tested);

/* What the nonces of a span share, for searches on other processors. A span is the positions with all but the low 32
 * (counting) or 27 bits (walk) in common; the rest is a position's offset. Of qpow-poseidon2 only. */
typedef struct {
    /* Elements of the state, any representatives. Counting: element i before the first S-boxes of the third
     * permutation is words[i] + column 7 of the external matrix * e at offset bswap32(e); words[12], [13] are 0.
     * Walk: what all elements but 3 and 7 give before the second S-boxes, their constants included, and then elements 3
     * and 7 before the first S-boxes; these are words[12] + 35 k and words[13] - 35 k at offset k. */
    uint64_t words[14];
    uint64_t top_target; /* the first 8 bytes of the target as an integer; a nonce whose hash begins with more is not valid */
    uint32_t offset;    /* of the position */
} qm_span;

/* Set *span to the span of a position. Returns QM_INVALID if the order has no such position, else 0. */
int qm_span_at(const qm_job *job, const uint8_t position[64], qm_span *span);

/* Hash a nonce of qpow-poseidon2 with code and constants that no kernel uses, to confirm what a kernel finds. */
void qm_poseidon2_hash(const uint8_t header[32], const uint8_t nonce[64], uint8_t hash[64]);

void qm_control_reset(qm_control *control);            /* clear both fields before a search */
void qm_control_stop(qm_control *control);         /* from any thread */
uint64_t qm_control_hashes(const qm_control *control); /* from any thread */

/* end cdef */

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
