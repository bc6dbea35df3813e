// qpow-poseidon2 for GPUs, one nonce a thread; CUDA C++ and OpenCL C. source.py puts the language's macros and the
// constants before it, and explains both.
//
// An element is any u64, canonical or not; M = 2^32 - 1, 2^64 = M modulo p. Products are reduced by Montgomery's
// method; an S-box divides by 2^384 = 1. In the linear layers an element is two limbs, low + 2^32 high.

#define M 0xffffffffu
#define P 0xffffffff00000001u

// W, v any. Returns W - l0 - M v modulo p, any.
// l0 + M v <= p - 1, so adding p once makes up for a borrow; p = -M modulo 2^64.
INLINE u64 montgomery(u64 W, u32 v, u32 l0) {
    const u64 B = ((u64)v << 32) - v + l0, r = W - B;
    return W < B ? r - M : r;
}

// x, y any. Returns x y / 2^64, any.
// x y = l + 2^32 (m + n) + 2^64 h = l0 + 2^32 v + 2^64 h, v = m + n + l1. Less l0 p it is 2^32 (v + l0) + 2^64 (h - l0),
// and with V = v + l0 = V0 + 2^32 V1, less 2^32 V0 p, 2^64 (h + V1 - l0 + V0 - 2^32 V0). V has 66 bits at most, but
// l0 + 2^32 V + 2^64 h <= x y + 2^32 M, so W = h + V1 <= (2^64 - 1)^2 / 2^64 + 1 < 2^64.
INLINE u64 multiply(u64 x, u64 y) {
    const u32 x0 = (u32)x, x1 = (u32)(x >> 32), y0 = (u32)y, y1 = (u32)(y >> 32);
    const u64 l = (u64)x0 * y0, m = (u64)x0 * y1;
    u64 h = (u64)x1 * y1, n;
    MULTIPLY_ADD(n, x1, y0, m, h);
    const u64 v = (n & M) + (l & M) + (l >> 32);
    return montgomery(h + (n >> 32) + (v >> 32), (u32)v, (u32)l);
}

// x any. Returns x^7, any.
INLINE u64 seventh_power(u64 x) {
    const u64 x2 = multiply(x, x);
    return multiply(multiply(x, x2), multiply(x2, x2));
}

// low, high < 2^44. Returns low + 2^32 high modulo p, any.
// It is 2^32 t + low0 with t = high + low1 = t0 + 2^32 t1, so 2^32 (t0 + t1) + low0 - t1. Where t0 + t1 has a carry,
// that is more than p, and p is subtracted; where not, it fits.
INLINE u64 fold(u64 low, u64 high) {
    const u64 t = high + (low >> 32);
    const u32 t0 = (u32)t;
    u32 t1 = (u32)(t >> 32);
    t1 += t0 + t1 < t0;
    return ((u64)(t0 + t1) << 32) + (u32)low - t1;
}

// low + 2^32 high, modulo p / 2^32, any; high + (low >> 32) < 2^64.
INLINE u64 divide(u64 low, u64 high) {
    const u64 A = high + (low >> 32), B = ((u64)(u32)low << 32) - (u32)low, r = A - B;
    return A < B ? r - M : r;
}

// The external matrix on one limb of all elements; its rows add up to 28.
INLINE void layer(u64 x[12]) {
    UNROLL
    for (int i = 0; i < 12; i += 4) {
        const u64 pair01 = x[i] + x[i + 1], pair23 = x[i + 2] + x[i + 3];
        const u64 all1 = pair01 + pair23 + x[i + 1], all3 = pair01 + pair23 + x[i + 3];
        x[i + 3] = all3 + x[i] + x[i];
        x[i + 1] = all1 + x[i + 2] + x[i + 2];
        x[i] = all1 + pair01;
        x[i + 2] = all3 + pair23;
    }
    UNROLL
    for (int i = 0; i < 4; ++i) {
        const u64 sum = x[i] + x[i + 4] + x[i + 8];
        x[i] += sum;
        x[i + 4] += sum;
        x[i + 8] += sum;
    }
}

// The external matrix, then the constants: limbs < 28 M + M.
INLINE void external_layer(u64 x[12], CONSTANT const u64 *constants) {
    u64 low[12], high[12];
    UNROLL
    for (int i = 0; i < 12; ++i) {
        low[i] = (u32)x[i];
        high[i] = x[i] >> 32;
    }
    layer(low);
    layer(high);
    UNROLL
    for (int i = 0; i < 12; ++i) x[i] = fold(low[i] + (u32)constants[i], high[i] + (constants[i] >> 32));
}

// All internal rounds; x[1] .. x[11] come out with offsets, which constants take away.
//
// x[i] becomes d x[i] + s, s the sum. Of 2^32 d and 2^64 d modulo p, A and B are the digits, so that
// 2^32 (d x + s) = low + 2^32 high with low = A0 x0 + B0 x1 + s's, high = A1 x0 + B1 x1 + s's. A digit may be negative:
// then its size is multiplied by ~x0 = M - x0 instead of x0, which adds a constant. With s = s0 + 2^32 s1, each <= 12 M,
// 2^32 s = 2^32 (s0 + s1) - s1; LOW keeps low from being negative. source.py proves that low + 2^32 and
// high + 2^32 are less than 2^64, and keeps the account of the constants.
INLINE void internal_rounds(u64 x[12]) {
    ROLLED
    for (int r = 0; r < 22; ++r) {
        x[0] = seventh_power(x[0]);
        u64 s0 = 0, s1 = 0;
        UNROLL
        for (int i = 0; i < 12; ++i) {
            s0 += (u32)x[i];
            s1 += x[i] >> 32;
        }
        s0 += s1;
        s1 = LOW - s1;
        UNROLL
        for (int i = 0; i < 12; ++i) {
            const u32 x0 = (u32)x[i], x1 = (u32)(x[i] >> 32);
            u64 low = s1 + (u64)(A0_NEGATIVE[i] ? ~x0 : x0) * A0[i] + (u64)(B0_NEGATIVE[i] ? ~x1 : x1) * B0[i];
            u64 high = s0 + (u64)(A1_NEGATIVE[i] ? ~x0 : x0) * A1[i] + (u64)(B1_NEGATIVE[i] ? ~x1 : x1) * B1[i];
            if (i == 0) {
                low += (u32)INTERNAL[r];
                high += INTERNAL[r] >> 32;
            }
            x[i] = divide(low, high);
        }
    }
    UNROLL
    for (int i = 0; i < 12; ++i) x[i] = fold((x[i] & M) + (u32)AFTER_INTERNAL[i], (x[i] >> 32) + (AFTER_INTERNAL[i] >> 32));
}

// The first 8 bytes of the hash, as an integer, from the elements before the second S-boxes.
INLINE u64 top_of_hash(u64 x[12]) {
    ROLLED
    for (int r = 1;; ++r) {
        UNROLL
        for (int i = 0; i < 12; ++i) x[i] = seventh_power(x[i]);
        if (r == 15) break;
        external_layer(x, EXTERNAL[r]);
        if (r == 7) external_layer(x, EXTERNAL[0]);  // before it the last block, which is [1, 1, 0, ...]
        if (r % 8 == 3) internal_rounds(x);
    }
    u64 low = 0, high = 0;
    UNROLL
    for (int i = 0; i < 12; ++i) {
        low += (x[i] & M) * ROW0[i];
        high += (x[i] >> 32) * ROW0[i];
    }
    const u64 element = fold(low, high);
    return REVERSE_BYTES(element >= P ? element - P : element);
}

// Element i before the first S-boxes is w[i] + COLUMN7[i] e, e the last element of the nonce.
INLINE void start_counting(u64 x[12], u32 offset, const u64 w[14]) {
    const u64 e = REVERSE_BYTES((u64)offset) >> 32;
    UNROLL
    for (int i = 0; i < 12; ++i) x[i] = seventh_power(fold((w[i] & M) + COLUMN7[i] * e, w[i] >> 32));
    external_layer(x, EXTERNAL[8]);
}

// Elements 3 and 7 before the first S-boxes are w[12] + 35 k and w[13] - 35 k at step k; p = 2^40 + 1 + 2^32 (M - 256). The others are the same at
// every step; w[0] .. w[11] is what they alone give before the second S-boxes.
INLINE void start_walk(u64 x[12], u32 k, const u64 w[14]) {
    const u64 along = (u64)k * 35, power3 = seventh_power(fold((w[12] & M) + along, w[12] >> 32)),
              power7 = seventh_power(fold((w[13] & M) + (((u64)1 << 40) + 1 - along), (w[13] >> 32) + (M - 256)));
    UNROLL
    for (int i = 0; i < 12; ++i)
        x[i] = fold((w[i] & M) + (power3 & M) * COLUMN3[i] + (power7 & M) * COLUMN7[i],
                    (w[i] >> 32) + (power3 >> 32) * COLUMN3[i] + (power7 >> 32) * COLUMN7[i]);
}

#define SEARCH(name, start)                                                                                            \
    KERNEL name(u64 w0, u64 w1, u64 w2, u64 w3, u64 w4, u64 w5, u64 w6, u64 w7, u64 w8, u64 w9, u64 w10, u64 w11,      \
                u64 w12, u64 w13, u64 top_limit, u32 first, u32 count, GLOBAL u32 *hits) {                             \
        const u64 w[14] = {w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13};                                \
        for (u32 i = THREAD; i < count; i += THREADS) {                                                                \
            u64 x[12];                                                                                                 \
            start(x, first + i, w);                                                                                    \
            if (top_of_hash(x) <= top_limit) {                                                                         \
                const u32 hit = COUNT_UP(hits);                                                                        \
                if (hit < MAX_HITS) hits[1 + hit] = first + i;                                                         \
            }                                                                                                          \
        }                                                                                                              \
    }

SEARCH(search_walk, start_walk)
SEARCH(search_counting, start_counting)
