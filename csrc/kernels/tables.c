/* The dispatch tables: one a level that this build holds, all constant, and the choice among them.
 *
 * The choice is made once a process: reading the environment at every call would race with a
 * program that changes it (Python's os.environ does). Threads that come first together compute
 * the same pointer, so a relaxed atomic is all that is needed. */
#include <stdatomic.h>

#include "kernels/kernels.h"

#define DD_KERNEL(name, result, arguments) .name = dd_##name##__ref,
static const dd_kernels_table table_ref = {
#include "kernels/kernels.def"
};
#undef DD_KERNEL

#if defined(__x86_64__)
#define DD_KERNEL(name, result, arguments) .name = dd_##name##__avx2,
static const dd_kernels_table table_avx2 = {
#include "kernels/kernels.def"
};
#undef DD_KERNEL

#define DD_KERNEL(name, result, arguments) .name = dd_##name##__avx512,
static const dd_kernels_table table_avx512 = {
#include "kernels/kernels.def"
};
#undef DD_KERNEL
#endif

#if defined(__aarch64__)
#define DD_KERNEL(name, result, arguments) .name = dd_##name##__neon,
static const dd_kernels_table table_neon = {
#include "kernels/kernels.def"
};
#undef DD_KERNEL
#endif

const dd_kernels_table *dd_kernels_of(dd_isa isa) {
    switch (isa) {
    case DD_ISA_SCALAR:
        return &table_ref;
#if defined(__x86_64__)
    case DD_ISA_AVX2:
        return &table_avx2;
    case DD_ISA_AVX512:
        return &table_avx512;
#endif
#if defined(__aarch64__)
    case DD_ISA_NEON:
        return &table_neon;
#endif
    default:
        return NULL;
    }
}

const dd_kernels_table *dd_kernels(void) {
    static _Atomic(const dd_kernels_table *) chosen;
    const dd_kernels_table *table = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (table)
        return table;
    for (int isa = (int)dd_isa_best(); !table; isa--) /* ends at ref, which is always there */
        if (dd_isa_supported((dd_isa)isa))
            table = dd_kernels_of((dd_isa)isa);
    atomic_store_explicit(&chosen, table, memory_order_relaxed);
    return table;
}
