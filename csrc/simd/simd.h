/* clang-format off */
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
 *   v_add_doubles(p, v)                                    p[lane] += v's lane, VL doubles
 *   v_exp(x)                                               2 ulp, saturating, NaN kept
 *   v_scale_by_power(p, n) = p · 2^n for whole n in [-252, 254]
 *   v_to_int(x) (round to nearest even; within int32) v_to_float(i) v_as_float(i) v_as_int(x)
 *   v_set1_int(i) v_add_int v_sub_int v_and_int v_or_int v_select_int(m, a, b)   integers wrap
 *   v_shift_left(i, bits) v_shift_right(i, bits)           the right shift brings in zeros
 *   v_load_int(p) v_store_int(p, i) v_store_int_n(p, i, n)
 *   v_load_bf16(p) v_store_bf16(p, v) and _n               bfloat16, rounded to nearest even
 *   v_stream(p, v) v_stream_bf16(p, v) v_stream_end()      past the caches, aligned
 *   v_store_u16(p, i) and _n, v_stream_u16(p, i)           the lower halves of int32 < 65536
 *   v_load_u8(p) -> vf                                     VL bytes as floats; v_load_u8_n(p, n)
 *
 * V_INLINE marks a function of a kernel file as `static inline`, always inlined: a tile's sizes are
 * constants only there.
 *
 * min and max: a NaN in the first operand gives the second (x86's rule), on every level. */
/* clang-format on */
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

/* The bits of the nearest bfloat16 in each lane's lower half, ties to even; a NaN stays one. */
V_INLINE vi v_bf16_bits(vf x) {
    vi bits = v_as_int(x);
    vi odd = v_and_int(v_shift_right(bits, 16), v_set1_int(1));
    vi up = v_add_int(bits, v_add_int(odd, v_set1_int(0x7fff)));
    return v_select_int(v_eq(x, x), v_shift_right(up, 16), v_set1_int(0x7fc0));
}

V_INLINE void v_store_bf16(uint16_t *p, vf x) {
    v_store_u16(p, v_bf16_bits(x));
}
V_INLINE void v_store_bf16_n(uint16_t *p, vf x, int n) {
    v_store_u16_n(p, v_bf16_bits(x), n);
}
V_INLINE void v_stream_bf16(uint16_t *p, vf x) {
    v_stream_u16(p, v_bf16_bits(x));
}

/* e^x; the same bits on every level. Range reduction x = n·ln 2 + r with |r| <= ln 2 / 2, then
 * the polynomial of Cephes' expf. Above ln(FLT_MAX) it is infinity; below ln(FLT_MIN) it is 0, not
 * a subnormal, so that flush-to-zero makes no difference. The clamp stands first in min and max:
 * a NaN in x comes through. */
V_INLINE vf v_exp(vf x) {
    const float highest = 88.722839f, lowest = -87.33654f;
    vf t = v_max(v_set1(lowest), v_min(v_set1(highest), x));
    vf n = v_floor(v_fma(t, v_set1(1.44269504f), v_set1(0.5f)));
    vf r = v_fma(n, v_set1(-0.693359375f), t);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    vf y = v_set1(1.9875691500e-4f);
    y = v_fma(y, r, v_set1(1.3981999507e-3f));
    y = v_fma(y, r, v_set1(8.3334519073e-3f));
    y = v_fma(y, r, v_set1(4.1665795894e-2f));
    y = v_fma(y, r, v_set1(1.6666665459e-1f));
    y = v_fma(y, r, v_set1(5.0000001201e-1f));
    y = v_add(v_fma(y, v_mul(r, r), r), v_set1(1.0f));
    y = v_scale_by_power(y, n);
    y = v_select(v_gt(x, v_set1(highest)), v_set1(__builtin_inff()), y);
    return v_select(v_lt(x, v_set1(lowest)), v_zero(), y);
}

#endif
