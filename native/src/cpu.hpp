// Which vector instruction sets a kernel may use: those that the processor has and whose registers the operating
// system keeps. False for all on processors other than x86-64.
#pragma once

bool cpu_has_avx2();          // AVX2 and BMI2
bool cpu_has_avx512();        // AVX-512 F, DQ, BW, VL, and all of cpu_has_avx2
bool cpu_has_avx512_ifma();   // and IFMA
