/* Which instructions this machine runs. By hand and not by the compiler's helper, because the
 * helper of older compilers knows neither VNNI nor the operating system's part in AVX-512. */
#include "base/cpu.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#define DD_X86 1
#include <cpuid.h>
#endif

static const char *const names[DD_ISA_COUNT] = {
    [DD_ISA_SCALAR] = "scalar",
    [DD_ISA_AVX2] = "avx2",
    [DD_ISA_AVX512] = "avx512",
    [DD_ISA_NEON] = "neon",
};

const char *dd_isa_name(dd_isa isa) {
    return (unsigned)isa < DD_ISA_COUNT ? names[isa] : "?";
}

#ifdef DD_X86
/* The register state that the operating system saves at a task switch: bit 1 SSE, 2 AVX, 5-7
 * AVX-512. Without it the instructions trap even on a CPU that has them. */
static unsigned saved_state(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static unsigned detect(void) {
    unsigned a, b, c, d, levels = 1u << DD_ISA_SCALAR;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return levels;
    const unsigned base = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
    if ((c & base) != base)
        return levels;
    unsigned state = saved_state();
    if ((state & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return levels;
    if (!(b & bit_AVX2))
        return levels;
    levels |= 1u << DD_ISA_AVX2;
    const unsigned wide = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((state & 0xE6) == 0xE6 && (b & wide) == wide && (c & bit_AVX512VNNI))
        levels |= 1u << DD_ISA_AVX512;
    return levels;
}
#elif defined(__aarch64__)
/* NEON is part of the base architecture. */
static unsigned detect(void) {
    return 1u << DD_ISA_SCALAR | 1u << DD_ISA_NEON;
}
#else
static unsigned detect(void) {
    return 1u << DD_ISA_SCALAR;
}
#endif

bool dd_isa_supported(dd_isa isa) {
    /* Kept, because a virtual machine answers cpuid in tens of microseconds. Threads that race
     * here write the same value. */
    static _Atomic unsigned known;
    unsigned levels = atomic_load_explicit(&known, memory_order_relaxed);
    if (!levels) {
        levels = detect();
        atomic_store_explicit(&known, levels, memory_order_relaxed);
    }
    return (unsigned)isa < DD_ISA_COUNT && (levels >> isa & 1u);
}

/* The highest level that DD_ISA allows; DD_ISA_COUNT where it names none. */
static dd_isa allowed(void) {
    const char *text = getenv("DD_ISA");
    if (!text || !*text)
        return DD_ISA_COUNT - 1;
    for (int isa = 0; isa < DD_ISA_COUNT; isa++)
        if (strcmp(text, names[isa]) == 0)
            return (dd_isa)isa;
    return DD_ISA_COUNT;
}

dd_status dd_isa_check(void) {
    if (allowed() < DD_ISA_COUNT)
        return DD_OK;
    return dd_fail(DD_EVALUE, "DD_ISA: '%s' is no level, scalar, avx2, avx512 or neon is needed",
                   getenv("DD_ISA"));
}

dd_isa dd_isa_best(void) {
    dd_isa top = allowed();
    if (top == DD_ISA_COUNT) /* a misspelt wish to lower the level must not raise it */
        top = DD_ISA_SCALAR;
    for (int isa = (int)top; isa > DD_ISA_SCALAR; isa--)
        if (dd_isa_supported((dd_isa)isa))
            return (dd_isa)isa;
    return DD_ISA_SCALAR;
}

const char *dd_cpu_name(void) {
#ifdef DD_X86
    /* A thread's own copy: no lock for a string that is asked for once. */
    static _Thread_local unsigned words[13]; /* 48 bytes of text and a zero */
    unsigned a, b, c, d;
    if (!__get_cpuid(0x80000000u, &a, &b, &c, &d) || a < 0x80000004u)
        return "";
    for (unsigned i = 0; i < 3; i++)
        __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                    &words[4 * i + 3]);
    const char *text = (const char *)words;
    return text + strspn(text, " ");
#else
    return "";
#endif
}
