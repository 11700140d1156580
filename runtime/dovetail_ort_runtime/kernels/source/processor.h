// What this processor and its operating system can run.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#define DOVETAIL_X86
#elif defined(__aarch64__) || defined(_M_ARM64)
#define DOVETAIL_ARM64
#endif

#if defined(DOVETAIL_X86)
#include <cstdint>

#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(_MSC_VER)
#include <windows.h>
#elif defined(__linux__)
#include <sys/auxv.h>
#endif

namespace dovetail {

#if defined(DOVETAIL_X86)

struct CpuidAnswer {
    uint32_t eax = 0;
    uint32_t ebx = 0;
    uint32_t ecx = 0;
    uint32_t edx = 0;
};

inline CpuidAnswer cpuid(uint32_t leaf, uint32_t subleaf) {
    CpuidAnswer answer;
#if defined(_MSC_VER)
    int highest[4];
    __cpuid(highest, 0);
    if (leaf <= static_cast<uint32_t>(highest[0])) {
        int registers[4];
        __cpuidex(registers, static_cast<int>(leaf), static_cast<int>(subleaf));
        answer.eax = static_cast<uint32_t>(registers[0]);
        answer.ebx = static_cast<uint32_t>(registers[1]);
        answer.ecx = static_cast<uint32_t>(registers[2]);
        answer.edx = static_cast<uint32_t>(registers[3]);
    }
#else
    __get_cpuid_count(leaf, subleaf, &answer.eax, &answer.ebx, &answer.ecx, &answer.edx);
#endif
    return answer;
}

inline bool bit(uint32_t word, int index) { return (word >> index & 1) != 0; }

// The registers that the operating system saves (XCR0).
inline uint64_t saved_registers() {
    if (!bit(cpuid(1, 0).ecx, 27)) {
        return 0;
    }
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low;
    uint32_t high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<uint64_t>(high) << 32 | low;
#endif
}

inline bool processor_has_avx2() {
    constexpr uint64_t ymm = 0x6;
    const uint32_t features = cpuid(1, 0).ecx;
    const bool has_fma = bit(features, 12);
    const bool has_f16c = bit(features, 29);
    const bool has_avx2 = bit(cpuid(7, 0).ebx, 5);
    return has_fma && has_f16c && has_avx2 && (saved_registers() & ymm) == ymm;
}

inline bool processor_has_avxvnni() { return processor_has_avx2() && bit(cpuid(7, 1).eax, 4); }

inline bool processor_has_avx512vnni() {
    constexpr uint64_t zmm = 0xe6;
    const CpuidAnswer features = cpuid(7, 0);
    const bool has_f = bit(features.ebx, 16);
    const bool has_dq = bit(features.ebx, 17);
    const bool has_bw = bit(features.ebx, 30);
    const bool has_vl = bit(features.ebx, 31);
    const bool has_vnni = bit(features.ecx, 11);
    return processor_has_avx2() && has_f && has_dq && has_bw && has_vl && has_vnni && (saved_registers() & zmm) == zmm;
}

// A Linux process has to ask for the registers of AMX; all its threads may use them then.
inline bool may_use_amx() {
#if defined(__linux__)
    constexpr int request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr int tile_data = 18;               // XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

inline bool processor_has_avx512amx() {
    constexpr uint64_t tiles = 0x60000;
    const uint32_t features = cpuid(7, 0).edx;
    const bool has_tile = bit(features, 24);
    const bool has_int8 = bit(features, 25);
    const bool is_saved = (saved_registers() & tiles) == tiles;
    return processor_has_avx512vnni() && has_tile && has_int8 && is_saved && may_use_amx();
}

#elif defined(DOVETAIL_ARM64)

inline bool processor_has_dot_product() {
#if defined(__APPLE__)
    return true;
#elif defined(_MSC_VER)
    return IsProcessorFeaturePresent(PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE) != 0;
#elif defined(__linux__)
    constexpr unsigned long half_precision = 1ul << 10;
    constexpr unsigned long dot_product = 1ul << 20;
    constexpr unsigned long both = half_precision | dot_product;
    return (getauxval(AT_HWCAP) & both) == both;
#else
    return false;
#endif
}

#endif

}  // namespace dovetail
