typedef uint u32;
typedef ulong u64;
#define INLINE static inline
#define KERNEL __kernel __attribute__((reqd_work_group_size(BLOCK, 1, 1))) void
#define GLOBAL __global
#define CONSTANT __constant
#define TABLE __constant
#define CONSTANT_TABLE __constant
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define THREAD ((u32)get_global_id(0))
#define THREADS ((u32)get_global_size(0))
#define COUNT_UP(address) atomic_inc(address)
#define LOW(x) ((u32)(x))
#define HIGH(x) ((u32)((x) >> 32))
#define PAIR(low, high) ((u64)(high) << 32 | (low))
INLINE u64 reverse_bytes(u64 x) {
    return as_ulong(as_uchar8(x).s76543210);
}
INLINE u64 product(u32 x, u32 y) {
    return (u64)x * y;
}
INLINE u64 multiply_add(u32 x, u32 y, u64 sum) {
    return (u64)x * y + sum;
}
INLINE u64 multiply_add_carry(u32 x, u32 y, u64 sum, u32 *carry) {
    const u64 result = (u64)x * y + sum;
    *carry = result < sum;
    return result;
}
INLINE u64 add_carry(u64 a, u64 b, u32 *carry) {
    *carry = a + b < a;
    return a + b;
}
INLINE u32 increment_if_below(u32 v, u32 a, u32 b) {
    return v + (a < b);
}
INLINE u32 subtract_and_borrow(u32 a, u32 b) {
    return a - b - (a < b);
}
