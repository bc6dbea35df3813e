// qpow-poseidon2 for GPUs, one nonce a thread; CUDA C++ and OpenCL C. source.py puts before it the constants and
// what a language has of its own:
//     LOW(x), HIGH(x), PAIR(low, high)         halves of a u64, and back
//     product(x, y)                            x y
//     multiply_add(x, y, sum)                  x y + sum, modulo 2^64
//     multiply_add_carry(x, y, sum, &carry)    the same, and carry += 2^32 where it is 2^64 and more
//     increment_if_below(v, a, b)              v + (a < b), modulo 2^32
//     make_sum(low, top), add_sums(a, b)       low + 2^64 top, a + b, modulo 2^96
//
// An element is any u64, canonical or not; M = 2^32 - 1, 2^64 = M modulo p. Products are reduced by Montgomery's
// method; an S-box divides by 2^384 = 1. Two functions are wrong for one in 2^32 / 1.17 pairs of random arguments, and
// a hash calls them 1,432 times: for one nonce in 2.6 million the hash is wrong. Every hit is hashed again on the host.

#define M 0xffffffffu
#define P 0xffffffff00000001u

#ifndef CUSTOM_ADDITIONS
INLINE u64 add_half(u64 a, u32 b) {
    return a + b;
}

// W + v - l0 - 2^32 v, modulo 2^64.
INLINE u64 subtract_multiple(u64 W, u32 v, u32 l0) {
    return W + v - PAIR(l0, v);
}

// Adds l0 + l1 + n to v + 2^32 W, v = 0; returns v.
INLINE u32 carry_into(u64 *W, u64 l, u64 n) {
    const u64 v = (u64)LOW(n) + LOW(l) + HIGH(l);
    *W += (u64)HIGH(n) + HIGH(v);
    return LOW(v);
}
#endif

// W, v any. Returns W - l0 - M v modulo p, any, but for one in 2^32 / 1.17.
// With W = W0 + 2^32 W1 that is W0 + v - l0 + 2^32 (W1 - v), and where it is negative p is added: p = -M modulo 2^64, so
// 1 is added to v instead. That is decided by W1 < v alone, which is wrong where W1 = v and W0 + v < l0 (a sixth), and
// v + 1 must not be 2^32. Where W1 = v - 1, the sum is negative, as W0 + v - l0 < 2^33 - 1.
INLINE u64 montgomery(u64 W, u32 v, u32 l0) {
    return subtract_multiple(W, increment_if_below(v, HIGH(W), v), l0);
}

// x, y any. Returns x y / 2^64, any, but for one in 2^32 / 1.17.
// x y = l + 2^32 (m + n) + 2^64 h = l0 + 2^32 v + 2^64 h, v = m + n + l1. Less l0 p it is 2^32 (v + l0) + 2^64 (h - l0),
// and with V = v + l0 = V0 + 2^32 V1, less 2^32 V0 p, 2^64 (h + V1 - l0 + V0 - 2^32 V0). V has 66 bits at most, but
// l0 + 2^32 V + 2^64 h <= x y + 2^32 M, so W = h + V1 <= (2^64 - 1)^2 / 2^64 + 1 < 2^64.
INLINE u64 multiply(u64 x, u64 y) {
    const u64 l = product(LOW(x), LOW(y)), m = product(LOW(x), HIGH(y));
    u64 W = product(HIGH(x), HIGH(y));
    const u64 n = multiply_add_carry(HIGH(x), LOW(y), m, &W);
    const u32 v = carry_into(&W, l, n);
    return montgomery(W, v, LOW(l));
}

// x any. Returns x^7, any.
INLINE u64 seventh_power(u64 x) {
    const u64 x2 = multiply(x, x);
    return multiply(multiply(x, x2), multiply(x2, x2));
}

// high + (low >> 32) < 2^64. Returns low + 2^32 high, divided by 2^32, any, but for one in 2^32 / 1.17.
// It is high + low1 - M low0, see montgomery. high1 < low0 decides here. That is wrong where high1 = low0 - 1 and
// high0 + low1 + low0 >= 2^33 - 1 (a sixth); where high1 = low0 - 2, the result is negative.
INLINE u64 divide(u64 low, u64 high) {
    const u32 v = increment_if_below(LOW(low), HIGH(high), LOW(low));
    const u64 sum = add_half(add_half(high, HIGH(low)), v);
    return PAIR(LOW(sum), HIGH(sum) - v);
}

// x any. Returns x modulo p, any.
// x = low + 2^32 mid + 2^64 top = low - top + 2^32 (mid + top). Where mid + top has a carry, that is more than p, and p is
// subtracted; where not, it fits.
INLINE u64 fold(Sum x) {
    const u32 mid = HIGH(x.low), top = increment_if_below(x.top, mid + x.top, mid);
    return x.low + PAIR(0, top) - top;
}

// x, any, times a small number.
INLINE Sum times(u64 x, u32 factor) {
    const u64 low = product(LOW(x), factor), high = product(HIGH(x), factor) + HIGH(low);
    return make_sum(PAIR(LOW(low), LOW(high)), HIGH(high));
}

// The external matrix; its rows add up to 28.
INLINE void multiply_by_matrix(Sum x[12]) {
    UNROLL
    for (int i = 0; i < 4; ++i) {
        const Sum sum = add_sums(add_sums(x[i], x[i + 4]), x[i + 8]);
        x[i] = add_sums(x[i], sum);
        x[i + 4] = add_sums(x[i + 4], sum);
        x[i + 8] = add_sums(x[i + 8], sum);
    }
    UNROLL
    for (int i = 0; i < 12; i += 4) {
        const Sum pair01 = add_sums(x[i], x[i + 1]), pair23 = add_sums(x[i + 2], x[i + 3]), all = add_sums(pair01, pair23);
        const Sum all1 = add_sums(all, x[i + 1]), all3 = add_sums(all, x[i + 3]);
        x[i + 3] = add_sums(add_sums(all3, x[i]), x[i]);
        x[i + 1] = add_sums(add_sums(all1, x[i + 2]), x[i + 2]);
        x[i] = add_sums(all1, pair01);
        x[i + 2] = add_sums(all3, pair23);
    }
}

// The external matrix, then the constants.
INLINE void external_layer(u64 x[12], CONSTANT const u64 *constants) {
    Sum wide[12];
    UNROLL
    for (int i = 0; i < 12; ++i) wide[i] = make_sum(x[i], 0);
    multiply_by_matrix(wide);
    UNROLL
    for (int i = 0; i < 12; ++i) x[i] = fold(add_sums(wide[i], make_sum(constants[i], 0)));
}

// All internal rounds; x[1] .. x[11] come out with offsets, which constants take away.
//
// x[i] becomes d x[i] + s, s the sum. Of 2^32 d and 2^64 d modulo p, A and B are the digits, so that
// 2^32 (d x + s) = low + 2^32 high with low = A0 x0 + B0 x1 + s's, high = A1 x0 + B1 x1 + s's. A digit may be negative:
// then its size is multiplied by ~x0 = M - x0 instead of x0, which adds a constant. With s = s0 + 2^32 s1, each <= 12 M,
// 2^32 s = 2^32 (s0 + s1) - s1; LOW_OFFSET keeps low from being negative. source.py proves that low + 2^32 and
// high + 2^32 are less than 2^64, and keeps the account of the constants.
INLINE void internal_rounds(u64 x[12]) {
    ROLLED
    for (int r = 0; r < 22; ++r) {
        x[0] = seventh_power(x[0]);
        u64 s0 = 0, s1 = 0;
        UNROLL
        for (int i = 0; i < 12; ++i) {
            s0 = add_half(s0, LOW(x[i]));
            s1 = add_half(s1, HIGH(x[i]));
        }
        const u64 for_low = LOW_OFFSET - s1, for_high = s0 + s1;
        UNROLL
        for (int i = 0; i < 12; ++i) {
            const u32 x0 = LOW(x[i]), x1 = HIGH(x[i]);
            u64 low = for_low, high = for_high;
            if (i == 0) {
                low += LOW(INTERNAL[r]);
                high += HIGH(INTERNAL[r]);
            }
            low = multiply_add(A0_NEGATIVE[i] ? ~x0 : x0, A0[i], low);
            low = multiply_add(B0_NEGATIVE[i] ? ~x1 : x1, B0[i], low);
            high = multiply_add(A1_NEGATIVE[i] ? ~x0 : x0, A1[i], high);
            high = multiply_add(B1_NEGATIVE[i] ? ~x1 : x1, B1[i], high);
            x[i] = divide(low, high);
        }
    }
    UNROLL
    for (int i = 0; i < 12; ++i) x[i] = fold(add_sums(make_sum(x[i], 0), make_sum(AFTER_INTERNAL[i], 0)));
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
    Sum sum = make_sum(0, 0);
    UNROLL
    for (int i = 0; i < 12; ++i) sum = add_sums(sum, times(x[i], ROW0[i]));
    const u64 element = fold(sum);
    return reverse_bytes(element >= P ? element - P : element);
}

// Element i before the first S-boxes is w[i] + COLUMN7[i] e, e the last element of the nonce.
INLINE void start_counting(u64 x[12], u32 offset, const u64 w[14]) {
    const u64 e = reverse_bytes((u64)offset) >> 32;
    UNROLL
    for (int i = 0; i < 12; ++i) x[i] = seventh_power(fold(add_sums(make_sum(w[i], 0), times(e, COLUMN7[i]))));
    external_layer(x, EXTERNAL[8]);
}

// Elements 3 and 7 before the first S-boxes are w[12] + 35 k and w[13] - 35 k at step k. The others are the same at
// every step; w[0] .. w[11] is what they alone give before the second S-boxes.
INLINE void start_walk(u64 x[12], u32 k, const u64 w[14]) {
    const u64 along = (u64)k * 35;
    const u64 power3 = seventh_power(fold(add_sums(make_sum(w[12], 0), make_sum(along, 0)))),
              power7 = seventh_power(fold(add_sums(make_sum(w[13], 0), make_sum(P - along, 0))));
    UNROLL
    for (int i = 0; i < 12; ++i)
        x[i] = fold(add_sums(make_sum(w[i], 0), add_sums(times(power3, COLUMN3[i]), times(power7, COLUMN7[i]))));
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
