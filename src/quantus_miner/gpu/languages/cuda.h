typedef unsigned int u32;
typedef unsigned long long u64;
#define INLINE __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(BLOCK)
#define GLOBAL
#define CONSTANT
#define TABLE static __device__ constexpr
#define CONSTANT_TABLE static __constant__
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define THREAD (blockIdx.x * BLOCK + threadIdx.x)
#define THREADS (gridDim.x * BLOCK)
#define COUNT_UP(address) atomicAdd(address, 1u)
#define LOW(x) ((u32)(x))
#define HIGH(x) ((u32)((x) >> 32))
#define PAIR(low, high) ((u64)(high) << 32 | (low))
INLINE u64 reverse_bytes(u64 x) {
    return PAIR(__byte_perm(HIGH(x), 0, 0x0123), __byte_perm(LOW(x), 0, 0x0123));
}
// Left to itself the compiler makes 64-bit products of these, and adds a zero for their high halves.
INLINE u64 product(u32 x, u32 y) {
    u32 low, high;
    asm("{ .reg .u64 t; mul.wide.u32 t, %2, %3; mov.b64 {%0, %1}, t; }" : "=&r"(low), "=&r"(high) : "r"(x), "r"(y));
    return PAIR(low, high);
}
INLINE u64 multiply_add(u32 x, u32 y, u64 sum) {
    u32 low, high;
    asm("mad.lo.cc.u32 %0, %2, %3, %4; madc.hi.u32 %1, %2, %3, %5;"
        : "=&r"(low), "=&r"(high) : "r"(x), "r"(y), "r"(LOW(sum)), "r"(HIGH(sum)));
    return PAIR(low, high);
}
INLINE u64 multiply_add_carry(u32 x, u32 y, u64 sum, u32 *carry) {
    u32 low, high;
    asm("mad.lo.cc.u32 %0, %3, %4, %5; madc.hi.cc.u32 %1, %3, %4, %6; addc.u32 %2, 0, 0;"
        : "=&r"(low), "=&r"(high), "=&r"(*carry) : "r"(x), "r"(y), "r"(LOW(sum)), "r"(HIGH(sum)));
    return PAIR(low, high);
}
INLINE u32 subtract_and_borrow(u32 a, u32 b) {
    u32 difference;
    asm("sub.cc.u32 %0, %1, %2; subc.u32 %0, %0, 0;" : "=&r"(difference) : "r"(a), "r"(b));
    return difference;
}
INLINE u32 increment_if_below(u32 v, u32 a, u32 b) {
    asm("{ .reg .pred p; setp.lt.u32 p, %1, %2; @p add.u32 %0, %0, 1; }" : "+r"(v) : "r"(a), "r"(b));
    return v;
}
INLINE u64 add_carry(u64 a, u64 b, u32 *carry) {
    u32 low, high;
    asm("add.cc.u32 %0, %3, %4; addc.cc.u32 %1, %5, %6; addc.u32 %2, 0, 0;"
        : "=&r"(low), "=&r"(high), "=&r"(*carry) : "r"(LOW(a)), "r"(LOW(b)), "r"(HIGH(a)), "r"(HIGH(b)));
    return PAIR(low, high);
}
#if __CUDA_ARCH__ >= 1000
// Additions of three numbers have one carry less, and 64-bit additions of halves cost moves. The multiplier has time.
#define ADDITIONS_ARE_SCARCE
INLINE u64 add_half(u64 a, u32 b) {
    return multiply_add(b, blockDim.x / BLOCK, a);  // 1, which the compiler does not know
}
INLINE u64 add_halves(u64 a, u32 b, u32 c) {
    u32 low, high;
    asm("add.cc.u32 %0, %2, %4; addc.u32 %1, %3, 0; add.cc.u32 %0, %0, %5; addc.u32 %1, %1, 0;"
        : "=&r"(low), "=&r"(high) : "r"(LOW(a)), "r"(HIGH(a)), "r"(b), "r"(c));
    return PAIR(low, high);
}
INLINE u64 subtract_multiple(u64 W, u32 v, u32 l0) {
    u32 low, high;
    asm("sub.cc.u32 %0, %2, %4; subc.u32 %1, %3, %5; add.cc.u32 %0, %0, %5; addc.u32 %1, %1, 0;"
        : "=&r"(low), "=&r"(high) : "r"(LOW(W)), "r"(HIGH(W)), "r"(l0), "r"(v));
    return PAIR(low, high);
}
#endif
