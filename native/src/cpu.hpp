// The vector instruction sets that a kernel may use: the processor must have them and the operating system must save
// their registers. All are false on processors other than x86-64.
#pragma once

bool cpu_has_avx2();          // AVX2 and BMI2
bool cpu_has_avx512();        // AVX-512 F, DQ, BW, VL, and all of cpu_has_avx2
bool cpu_has_avx512_ifma();   // and IFMA
