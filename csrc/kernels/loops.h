/* Words that the kernel files share for their loops. */
#ifndef DD_KERNELS_LOOPS_H
#define DD_KERNELS_LOOPS_H

#if defined(__SANITIZE_ADDRESS__)
#define DD_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define DD_SANITIZED 1
#endif
#endif

/* Before a loop of at most 64 turns with constant bounds: it is written out, so that arrays of
 * vectors indexed by its variable live in registers. Both compilers need to be told. A sanitizer
 * puts a check at every access: there loops stay loops, or a file takes minutes to compile. */
#if defined(DD_SANITIZED) && defined(__clang__)
#define DD_UNROLL _Pragma("clang loop unroll(disable)")
#define DD_ROLLED DD_UNROLL
#define DD_UNROLL_BY_2 DD_UNROLL
#elif defined(DD_SANITIZED)
#define DD_UNROLL _Pragma("GCC unroll 1")
#define DD_ROLLED DD_UNROLL
#define DD_UNROLL_BY_2 DD_UNROLL
#elif defined(__clang__)
#define DD_UNROLL _Pragma("clang loop unroll(full)")
#define DD_ROLLED _Pragma("clang loop unroll(disable)")
#define DD_UNROLL_BY_2 _Pragma("clang loop unroll_count(2)")
#else
#define DD_UNROLL _Pragma("GCC unroll 64")
#define DD_ROLLED _Pragma("GCC unroll 1")
#define DD_UNROLL_BY_2 _Pragma("GCC unroll 2")
#endif

/* Hides where a pointer came from, at no cost. Without it the compiler computes the addresses of a
 * whole tile ahead of the loop, runs out of registers and fetches them back from the stack one by
 * one; with it, the next address is one addition away. */
#define DD_OPAQUE(pointer) __asm__("" : "+r"(pointer))

/* Holds a vector just loaded in a register. GCC else folds the load into every use of it: three
 * reads of memory instead of one. */
#if defined(DD_LEVEL_avx512)
#define V_KEEP(v) __asm__("" : "+v"(v))
#elif defined(DD_LEVEL_avx2)
#define V_KEEP(v) __asm__("" : "+x"(v))
#elif defined(DD_LEVEL_neon)
#define V_KEEP(v) __asm__("" : "+w"(v))
#else
#define V_KEEP(v) ((void)(v))
#endif

/* A function that must stay a call: a rare path that would swell the loop around it, or a tile
 * whose code needs the registers for itself. */
#define DD_RARE static __attribute__((noinline, unused))

/* The first `n` lanes; where n is the constant VL, a plain access. */
#define V_LOAD(p, n) ((n) == VL ? v_load(p) : v_load_n((p), (n)))
#define V_STORE(p, v, n) ((n) == VL ? v_store((p), (v)) : v_store_n((p), (v), (n)))

#endif
