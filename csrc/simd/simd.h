/* The vector vocabulary: the words in which every kernel is written once.
 *
 * A kernel file includes this after the build set DD_LEVEL_<level>; it gets the type vf (VL
 * floats), vi (VL int32) and vm (a lane mask) with static inline functions of the same names on
 * every level, the constants VL (lanes) and V_REGISTERS (vector registers), and DD_NAME(f) =
 * dd_f__<level>. A kernel file has static functions only, but for its DD_NAME ones.
 *
 *   v_zero() v_set1(x) v_load(p) v_store(p, v)             any alignment
 *   v_load_n(p, n) v_store_n(p, v, n)                      the first n lanes, 0 <= n <= VL; others 0
 *   v_add v_sub v_mul v_div v_min v_max v_neg v_abs v_sqrt v_floor
 *   v_fma(a, b, c) = a·b + c, one rounding on every level (scalar: fmaf)
 *   v_lt v_le v_gt v_ge v_eq(a, b) -> vm;  v_select(m, a, b) = m ? a : b
 *   v_sum(v)                                               lanes added in a fixed order
 *   v_exp(x)                                               2 ulp, saturating, NaN kept
 *   v_to_int(x) (round to nearest even) v_to_float(i) v_shift_left(i, bits) v_add_int(a, b) v_as_float(i)
 *   v_load_u8(p) -> vf                                     VL bytes as floats; v_load_u8_n(p, n)
 *
 * min and max: a NaN in the first operand gives the second (x86's rule), on every level. */
#ifndef DD_SIMD_SIMD_H
#define DD_SIMD_SIMD_H

#if defined(DD_LEVEL_avx512)
#include "simd/avx512.h"
#elif defined(DD_LEVEL_avx2)
#include "simd/avx2.h"
#elif defined(DD_LEVEL_neon)
#include "simd/neon.h"
#else
#include "simd/scalar.h"
#endif

#endif
