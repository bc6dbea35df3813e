#include "cpu.hpp"

#ifdef __x86_64__

#include <cpuid.h>

#include <cstdint>

namespace {

// The registers that the operating system saves: XCR0, read with xgetbv, but only if cpuid says that this is allowed.
uint32_t saved_registers() {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    uint32_t low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

// saved: bits of XCR0. features: bits of cpuid leaf 7, ebx.
bool has(uint32_t saved, uint32_t features) {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    return (saved_registers() & saved) == saved && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & features) == features;
}

constexpr uint32_t ymm_saved = 0x06;  // xmm and the upper halves of ymm
constexpr uint32_t zmm_saved = 0xe6;  // and mask registers, the upper halves of zmm, zmm16..31
constexpr uint32_t avx2 = bit_AVX2 | bit_BMI2;
constexpr uint32_t avx512 = avx2 | bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;

}  // namespace

bool cpu_has_avx2() {
    return has(ymm_saved, avx2);
}
bool cpu_has_avx512() {
    return has(zmm_saved, avx512);
}
bool cpu_has_avx512_ifma() {
    return has(zmm_saved, avx512 | bit_AVX512IFMA);
}
#else

bool cpu_has_avx2() {
    return false;
}
bool cpu_has_avx512() {
    return false;
}
bool cpu_has_avx512_ifma() {
    return false;
}
#endif
