/* The vocabulary of simd.h on one lane of plain C: the level "ref", which every other is held to.
 */
#ifndef DD_SIMD_SCALAR_H
#define DD_SIMD_SCALAR_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define DD_NAME(f) dd_##f##__ref
#define V_INLINE static inline __attribute__((always_inline, unused))
#define VL 1
#define V_REGISTERS 16

typedef float vf;
typedef int32_t vi;
typedef bool vm;

V_INLINE vf v_zero(void) {
    return 0.0f;
}
V_INLINE vf v_set1(float x) {
    return x;
}
V_INLINE vf v_load(const float *p) {
    return *p;
}
V_INLINE void v_store(float *p, vf v) {
    *p = v;
}
/* Past the caches where the CPU can; here a plain store. */
V_INLINE void v_stream(float *p, vf v) {
    v_store(p, v);
}
V_INLINE void v_stream_end(void) {}
V_INLINE vf v_load_n(const float *p, int n) {
    return n > 0 ? *p : 0.0f;
}
V_INLINE void v_store_n(float *p, vf v, int n) {
    if (n > 0)
        *p = v;
}

V_INLINE vf v_add(vf a, vf b) {
    return a + b;
}
V_INLINE vf v_sub(vf a, vf b) {
    return a - b;
}
V_INLINE vf v_mul(vf a, vf b) {
    return a * b;
}
V_INLINE vf v_div(vf a, vf b) {
    return a / b;
}
V_INLINE vf v_min(vf a, vf b) {
    return a < b ? a : b;
}
V_INLINE vf v_max(vf a, vf b) {
    return a > b ? a : b;
}
V_INLINE vf v_neg(vf a) {
    return -a;
}
V_INLINE vf v_abs(vf a) {
    return fabsf(a);
}
V_INLINE vf v_sqrt(vf a) {
    return sqrtf(a);
}
V_INLINE vf v_floor(vf a) {
    return floorf(a);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return fmaf(a, b, c);
}

V_INLINE vm v_lt(vf a, vf b) {
    return a < b;
}
V_INLINE vm v_le(vf a, vf b) {
    return a <= b;
}
V_INLINE vm v_gt(vf a, vf b) {
    return a > b;
}
V_INLINE vm v_ge(vf a, vf b) {
    return a >= b;
}
V_INLINE vm v_eq(vf a, vf b) {
    return a == b;
}
V_INLINE vf v_select(vm m, vf a, vf b) {
    return m ? a : b;
}
V_INLINE vi v_select_int(vm m, vi a, vi b) {
    return m ? a : b;
}

V_INLINE float v_sum(vf v) {
    return v;
}
V_INLINE void v_add_doubles(double *p, vf v) {
    *p += (double)v;
}

V_INLINE vi v_to_int(vf x) {
    return (int32_t)lrintf(x);
}
V_INLINE vf v_to_float(vi i) {
    return (float)i;
}
V_INLINE vf v_as_float(vi i) {
    float x;
    memcpy(&x, &i, sizeof x);
    return x;
}
V_INLINE vi v_as_int(vf x) {
    int32_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}
/* Integers wrap, as the vector units' do; signed overflow would be undefined. */
V_INLINE vi v_set1_int(int32_t i) {
    return i;
}
V_INLINE vi v_add_int(vi a, vi b) {
    return (vi)((uint32_t)a + (uint32_t)b);
}
V_INLINE vi v_sub_int(vi a, vi b) {
    return (vi)((uint32_t)a - (uint32_t)b);
}
V_INLINE vi v_and_int(vi a, vi b) {
    return a & b;
}
V_INLINE vi v_or_int(vi a, vi b) {
    return a | b;
}
V_INLINE vi v_shift_left(vi i, int bits) {
    return (vi)((uint32_t)i << bits);
}
V_INLINE vi v_shift_right(vi i, int bits) {
    return (vi)((uint32_t)i >> bits);
}
V_INLINE vi v_load_int(const int32_t *p) {
    return *p;
}
V_INLINE void v_store_int(int32_t *p, vi i) {
    *p = i;
}
V_INLINE void v_store_int_n(int32_t *p, vi i, int n) {
    if (n > 0)
        *p = i;
}

V_INLINE vf v_load_bf16(const uint16_t *p) {
    return v_as_float((vi)((uint32_t)*p << 16));
}
V_INLINE vf v_load_bf16_n(const uint16_t *p, int n) {
    return n ? v_load_bf16(p) : 0.0f;
}
V_INLINE void v_store_u16(uint16_t *p, vi i) {
    *p = (uint16_t)i;
}
V_INLINE void v_store_u16_n(uint16_t *p, vi i, int n) {
    if (n)
        *p = (uint16_t)i;
}
V_INLINE void v_stream_u16(uint16_t *p, vi i) {
    v_store_u16(p, i);
}

V_INLINE vf v_load_u8(const uint8_t *p) {
    return (float)*p;
}
V_INLINE vf v_load_u8_n(const uint8_t *p, int n) {
    return n > 0 ? (float)*p : 0.0f;
}

/* p · 2^n for whole n in [-252, 254]: two factors, since 2^n alone leaves the normal range. */
V_INLINE vf v_scale_by_power(vf p, vf n) {
    int32_t whole = v_to_int(n), half = v_to_int(n * 0.5f);
    return p * v_as_float(v_shift_left(half + 127, 23)) *
           v_as_float(v_shift_left(whole - half + 127, 23));
}

#endif
