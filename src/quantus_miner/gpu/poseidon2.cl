// qpow-poseidon2 for GPUs, one nonce a thread; CUDA C++ and OpenCL C. source.py puts before it the constants and
// what a language has of its own:
//     LOW(x), HIGH(x), PAIR(low, high)         halves of a u64, and back
//     product(x, y)                            x y
//     multiply_add(x, y, sum)                  x y + sum, modulo 2^64
//     multiply_add_carry(x, y, sum, &carry)    the same; carry = 1 where it is 2^64 and more, else 0
//     add_carry(a, b, &carry)                  a + b, modulo 2^64, and its carry
//     increment_if_below(v, a, b)              v + (a < b), modulo 2^32
//     subtract_and_borrow(a, b)                a - b - (a < b), modulo 2^32
//
// An element is any u64, canonical or not; M = 2^32 - 1, 2^64 = M modulo p. Products are reduced by Montgomery's
// method; an S-box divides by 2^384 = 1. Some functions are wrong for a few in 2^32 random arguments, as they say: for
// a hash that adds up to 2,900, so for one nonce in 1.5 million it is wrong. Every hit is hashed again on the host.

#define M 0xffffffffu
#define P 0xffffffff00000001u

#ifndef ADDITIONS_ARE_SCARCE
// a + b, modulo 2^64.
INLINE u64 add_half(u64 a, u32 b) {
    return a + b;
}

// a + b + c, modulo 2^64.
INLINE u64 add_halves(u64 a, u32 b, u32 c) {
    return a + b + c;
}

// W + v - l0 - 2^32 v, modulo 2^64.
INLINE u64 subtract_multiple(u64 W, u32 v, u32 l0) {
    return W + v - PAIR(l0, v);
}
#endif

// W, v any. Returns W - l0 - M v modulo p, any, but for 1.17 in 2^32 at random.
// With W = W0 + 2^32 W1 that is W0 + v - l0 + 2^32 (W1 - v), and where it is negative p is added: p = -M modulo 2^64,
// so 1 is added to v instead. That is decided by W1 < v alone, which is wrong where W1 = v and W0 + v < l0 (a sixth);
// and v + 1 must not be 2^32. Where W1 = v - 1, the sum with v + 1 is negative, as W0 + v - l0 < 2^33 - 1.
INLINE u64 montgomery(u64 W, u32 v, u32 l0) {
    return subtract_multiple(W, increment_if_below(v, HIGH(W), v), l0);
}

// x, y any. Returns x y / 2^64, any, but for 1.65 in 2^32.
// x y = l + 2^32 (m + n) + 2^64 h. Less l0 p, that is 2^32 V + 2^64 (h - l0) with V = m + n + l1 + l0; less 2^32 V0 p,
// it is 2^64 (W - l0 - M V0) with W = h + V / 2^32, rounded down. 2^64 W <= x y + 2^32 l0 < 2^128, so W < 2^64.
// V has 65 bits, as it is at most 2 M^2 + 2 M: the carry of m + n is kept, that of l1 and l0 lost. It takes m + n of
// 2^64 - 2^33 at least and less than 2^64, which are less often than others: 0.35 in 2^32. For montgomery it is 1.3 in
// 2^32, as products are small more often than large.
INLINE u64 multiply(u64 x, u64 y) {
    const u64 l = product(LOW(x), LOW(y)), m = product(LOW(x), HIGH(y));
    u32 carry;
    const u64 V = add_halves(multiply_add_carry(HIGH(x), LOW(y), m, &carry), LOW(l), HIGH(l));
    const u64 W = multiply_add(HIGH(x), HIGH(y), PAIR(HIGH(V), carry));
    return montgomery(W, LOW(V), LOW(l));
}

// The same for x = y.
INLINE u64 square(u64 x) {
#ifdef ADDITIONS_ARE_SCARCE
    return multiply(x, x);
#else
    const u64 l = product(LOW(x), LOW(x)), m = product(LOW(x), HIGH(x));
    const u64 V = add_halves(m + m, LOW(l), HIGH(l));
    const u64 W = multiply_add(HIGH(x), HIGH(x), PAIR(HIGH(V), HIGH(m) >> 31));
    return montgomery(W, LOW(V), LOW(l));
#endif
}

// x any. Returns x^7, any.
INLINE u64 seventh_power(u64 x) {
    const u64 x2 = square(x);
    return multiply(multiply(x, x2), square(x2));
}

// high + (low >> 32) < 2^64. Returns (low + 2^32 high) / 2^32 modulo p, any, but for 1.17 in 2^32 at random.
// It is high + low1 - M low0, see montgomery. high1 < low0 decides here. That is wrong where high1 = low0 - 1 and
// high0 + low1 + low0 >= 2^33 - 1 (a sixth); where high1 = low0 - 2, the result with v + 1 is negative. Of v, which is
// low0 or one more, the difference to high1 is found first.
INLINE u64 divide(u64 low, u64 high) {
    const u32 difference = subtract_and_borrow(HIGH(high), LOW(low)), v = HIGH(high) - difference;
    return add_halves(PAIR(LOW(high), difference), HIGH(low), v);
}

// top small, maybe negative. Returns low + 2^64 top modulo p, any, but for 2 |top| in 2^32.
// It is low - top + 2^32 top, where there are hardly ever carries.
INLINE u64 fold(u64 low, u32 top) {
    return PAIR(LOW(low) - top, HIGH(low) + top);
}

// Returns low + 2^32 high modulo p, see fold; high may be negative.
INLINE u64 join(u64 low, u64 high) {
    const u64 above = high + HIGH(low);
    return fold(PAIR(LOW(low), LOW(above)), HIGH(above));
}

// x, y any. Returns x + y modulo p, any, but for 1 in 2^32.
INLINE u64 add(u64 x, u64 y) {
    u32 carry;
    const u64 sum = add_carry(x, y, &carry);
    return fold(sum, carry);
}

// x any. Returns x modulo p, less than p.
INLINE u64 canonical(u64 x) {
    return x >= P ? x - P : x;
}

// The 4 by 4 matrix on each four of the elements' halves, in 7 sums of three.
INLINE void multiply_fours(u64 x[12]) {
    UNROLL
    for (int i = 0; i < 12; i += 4) {
        const u64 three = x[i] + x[i + 1] + x[i + 2];
        const u64 all1 = three + x[i + 3] + x[i + 1], all3 = three + x[i + 3] + x[i + 3];
        const u64 y0 = all1 + x[i] + x[i + 1], y1 = all1 + x[i + 2] + x[i + 2], y2 = all3 + x[i + 2] + x[i + 3];
        x[i + 3] = all3 + x[i] + x[i];
        x[i] = y0;
        x[i + 1] = y1;
        x[i + 2] = y2;
    }
}

// The external matrix, whose rows add up to 28: the one above, then to each element those in its place of all fours.
// With them the constants, which are 2^64 MEAN larger.
INLINE void external_layer(u64 x[12], CONSTANT const u64 *constants) {
    u64 low[12], high[12];
    UNROLL
    for (int i = 0; i < 12; ++i) {
        low[i] = LOW(x[i]);
        high[i] = HIGH(x[i]);
    }
    multiply_fours(low);
    multiply_fours(high);
    UNROLL
    for (int i = 0; i < 4; ++i) {
        const u64 low_sum = low[i] + low[i + 4] + low[i + 8], high_sum = high[i] + high[i + 4] + high[i + 8];
        UNROLL
        for (int j = i; j < 12; j += 4)
            x[j] = join(low[j] + low_sum + LOW(constants[j]), high[j] + high_sum + PAIR(HIGH(constants[j]), -MEAN));
    }
}

// All internal rounds; each leaves the elements divided by 2^32. x[1] .. x[11] go with offsets, which constants take
// away in the end.
//
// x[i] becomes (d x[i] + s) / 2^32, s the sum. Of d and 2^32 d modulo p, A and B are the digits, so that d x + s =
// low + 2^32 high with low = A0 x0 + B0 x1 + s0, high = A1 x0 + B1 x1 + s1, s = s0 + 2^32 s1. A digit may be negative:
// then its size is multiplied by ~x0 = M - x0 instead of x0, which adds a constant. source.py proves that low and
// high + 2^32 are less than 2^64, and keeps the account of the constants.
INLINE void internal_rounds(u64 x[12], int permutation) {
    ROLLED
    for (int r = 22 * permutation; r < 22 * permutation + 22; ++r) {
        x[0] = seventh_power(x[0]);
        u64 s0 = LOW(INTERNAL[r]), s1 = HIGH(INTERNAL[r]);
        UNROLL
        for (int i = 0; i < 12; ++i) {
            s0 = add_half(s0, LOW(x[i]));
            s1 += HIGH(x[i]);
        }
        UNROLL
        for (int i = 0; i < 12; ++i) {
            const u32 x0 = LOW(x[i]), x1 = HIGH(x[i]);
            u64 low = multiply_add(A0_NEGATIVE[i] ? ~x0 : x0, A0[i], s0);
            low = multiply_add(B0_NEGATIVE[i] ? ~x1 : x1, B0[i], low);
            u64 high = multiply_add(A1_NEGATIVE[i] ? ~x0 : x0, A1[i], s1);
            high = multiply_add(B1_NEGATIVE[i] ? ~x1 : x1, B1[i], high);
            x[i] = divide(low, high);
        }
    }
    UNROLL
    for (int i = 1; i < 12; ++i) x[i] = add(x[i], AFTER_INTERNAL[permutation][i]);
}

// The first 8 bytes of the hash, as an integer, from the elements before the second S-boxes.
INLINE u64 top_of_hash(u64 x[12]) {
    ROLLED
    for (int r = 1;; ++r) {
        UNROLL
        for (int i = 0; i < 12; ++i) x[i] = seventh_power(x[i]);
        if (r == 15) break;
        external_layer(x, EXTERNAL[r]);
        if (r == 7) external_layer(x, EXTERNAL[15]);  // before it the last block, which is [1, 1, 0, ...]
        if (r % 8 == 3) internal_rounds(x, r / 8);
    }
    u64 low = 0, high = 0;
    UNROLL
    for (int i = 0; i < 12; ++i) {
        low = multiply_add(LOW(x[i]), ROW0[i], low);
        high = multiply_add(HIGH(x[i]), ROW0[i], high);
    }
    return reverse_bytes(canonical(multiply(join(low, high), SCALE)));
}

// Element i before the first S-boxes is w[i] + COLUMN7[i] e, e the last element of the nonce.
INLINE void start_counting(u64 x[12], u32 offset, const u64 w[14]) {
    const u32 e = HIGH(reverse_bytes(offset));
    UNROLL
    for (int i = 0; i < 12; ++i) x[i] = seventh_power(add(w[i], product(e, COLUMN7[i])));
    external_layer(x, EXTERNAL[0]);
}

// Elements 3 and 7 before the first S-boxes are w[12] + 35 k and w[13] - 35 k at step k. The others are the same at
// every step; w[0] .. w[11] is what they alone give before the second S-boxes.
INLINE void start_walk(u64 x[12], u32 k, const u64 w[14]) {
    const u64 along = product(k, 35);
    const u64 power3 = seventh_power(add(w[12], along)), power7 = seventh_power(add(w[13], P - along));
    UNROLL
    for (int i = 0; i < 12; ++i) {
        x[i] = join(product(LOW(power3), COLUMN3[i]) + product(LOW(power7), COLUMN7[i]) + LOW(w[i]),
                    product(HIGH(power3), COLUMN3[i]) + product(HIGH(power7), COLUMN7[i]) + HIGH(w[i]));
    }
}

#define SEARCH(name, start)                                                                                            \
    KERNEL name(u64 w0, u64 w1, u64 w2, u64 w3, u64 w4, u64 w5, u64 w6, u64 w7, u64 w8, u64 w9, u64 w10, u64 w11,      \
                u64 w12, u64 w13, u64 top_target, u32 first, u32 count, GLOBAL u32 *hits) {                            \
        const u64 w[14] = {w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13};                                \
        for (u32 i = THREAD; i < count; i += THREADS) {                                                                \
            u64 x[12];                                                                                                 \
            start(x, first + i, w);                                                                                    \
            if (top_of_hash(x) <= top_target) {                                                                        \
                const u32 hit = COUNT_UP(hits);                                                                        \
                if (hit < MAX_HITS) hits[1 + hit] = first + i;                                                         \
            }                                                                                                          \
        }                                                                                                              \
    }

SEARCH(search_walk, start_walk)
SEARCH(search_counting, start_counting)
