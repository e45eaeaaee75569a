// What the processor is and has, of what decides which kernels are used.

#pragma once

#include <string>

#ifdef X86
#include <cpuid.h>

static std::string vendor() {
    unsigned highest, words[3];
    __get_cpuid(0, &highest, &words[0], &words[2], &words[1]);
    return std::string(reinterpret_cast<const char*>(words), sizeof words);
}

static bool has_amx() {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && edx >> 22 & 1;
}

static std::string description() {
    std::string lines = vendor();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) lines += "\navx2";
    if (__builtin_cpu_supports("avx512f")) lines += "\navx512";
    if (__builtin_cpu_supports("avx512bf16")) lines += "\navx512-bf16";
    if (has_amx()) lines += "\namx-bf16";
    return lines;
}
#else
static std::string description() { return "unknown\ngeneric"; }
#endif

// Lines: the vendor, as the processor calls it, and each feature.
extern "C" const char* kernels_processor() {
    static const std::string lines = description();
    return lines.c_str();
}
