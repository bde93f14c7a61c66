/* The vocabulary of simd.h on AArch64's NEON: four lanes, thirty-two registers. Tails go lane by
 * lane: NEON has no masked access, and a load past the last lane may leave the mapping. */
#ifndef DD_SIMD_NEON_H
#define DD_SIMD_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define DD_NAME(f) dd_##f##__neon
#define V_INLINE static inline __attribute__((always_inline, unused))
#define VL 4
#define V_REGISTERS 32

typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32x4_t vm; /* all bits of a lane set, or none */

V_INLINE vf v_zero(void) {
    return vdupq_n_f32(0.0f);
}
V_INLINE vf v_set1(float x) {
    return vdupq_n_f32(x);
}
V_INLINE vf v_load(const float *p) {
    return vld1q_f32(p);
}
V_INLINE void v_store(float *p, vf v) {
    vst1q_f32(p, v);
}
/* Past the caches where the CPU can; here a plain store. */
V_INLINE void v_stream(float *p, vf v) {
    v_store(p, v);
}
V_INLINE void v_stream_end(void) {}
V_INLINE vf v_load_n(const float *p, int n) {
    float lanes[4] = {0};
    for (int i = 0; i < n; i++)
        lanes[i] = p[i];
    return vld1q_f32(lanes);
}
V_INLINE void v_store_n(float *p, vf v, int n) {
    if (n == 4) {
        vst1q_f32(p, v);
        return;
    }
    float lanes[4];
    vst1q_f32(lanes, v);
    for (int i = 0; i < n; i++)
        p[i] = lanes[i];
}

V_INLINE vf v_add(vf a, vf b) {
    return vaddq_f32(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return vsubq_f32(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return vmulq_f32(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return vdivq_f32(a, b);
}
/* Not vminq and vmaxq: those return NaN when either operand is one. */
V_INLINE vf v_min(vf a, vf b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
V_INLINE vf v_max(vf a, vf b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
V_INLINE vf v_neg(vf a) {
    return vnegq_f32(a);
}
V_INLINE vf v_abs(vf a) {
    return vabsq_f32(a);
}
V_INLINE vf v_sqrt(vf a) {
    return vsqrtq_f32(a);
}
V_INLINE vf v_floor(vf a) {
    return vrndmq_f32(a);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}

V_INLINE vm v_lt(vf a, vf b) {
    return vcltq_f32(a, b);
}
V_INLINE vm v_le(vf a, vf b) {
    return vcleq_f32(a, b);
}
V_INLINE vm v_gt(vf a, vf b) {
    return vcgtq_f32(a, b);
}
V_INLINE vm v_ge(vf a, vf b) {
    return vcgeq_f32(a, b);
}
V_INLINE vm v_eq(vf a, vf b) {
    return vceqq_f32(a, b);
}
V_INLINE vf v_select(vm m, vf a, vf b) {
    return vbslq_f32(m, a, b);
}
V_INLINE vi v_select_int(vm m, vi a, vi b) {
    return vbslq_s32(m, a, b);
}

/* (0 + 2) + (1 + 3) */
V_INLINE float v_sum(vf v) {
    float32x2_t s = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
}
V_INLINE void v_add_doubles(double *p, vf v) {
    vst1q_f64(p, vaddq_f64(vld1q_f64(p), vcvt_f64_f32(vget_low_f32(v))));
    vst1q_f64(p + 2, vaddq_f64(vld1q_f64(p + 2), vcvt_high_f64_f32(v)));
}

V_INLINE vi v_to_int(vf x) {
    return vcvtnq_s32_f32(x);
}
V_INLINE vf v_to_float(vi i) {
    return vcvtq_f32_s32(i);
}
V_INLINE vf v_as_float(vi i) {
    return vreinterpretq_f32_s32(i);
}
V_INLINE vi v_as_int(vf x) {
    return vreinterpretq_s32_f32(x);
}
V_INLINE vi v_set1_int(int32_t i) {
    return vdupq_n_s32(i);
}
V_INLINE vi v_add_int(vi a, vi b) {
    return vaddq_s32(a, b);
}
V_INLINE vi v_sub_int(vi a, vi b) {
    return vsubq_s32(a, b);
}
V_INLINE vi v_and_int(vi a, vi b) {
    return vandq_s32(a, b);
}
V_INLINE vi v_or_int(vi a, vi b) {
    return vorrq_s32(a, b);
}
V_INLINE vi v_shift_left(vi i, int bits) {
    return vshlq_s32(i, vdupq_n_s32(bits));
}
V_INLINE vi v_shift_right(vi i, int bits) {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(i), vdupq_n_s32(-bits)));
}
V_INLINE vi v_load_int(const int32_t *p) {
    return vld1q_s32(p);
}
V_INLINE void v_store_int(int32_t *p, vi i) {
    vst1q_s32(p, i);
}
V_INLINE void v_store_int_n(int32_t *p, vi i, int n) {
    int32_t lanes[4];
    vst1q_s32(lanes, i);
    for (int j = 0; j < n; j++)
        p[j] = lanes[j];
}

/* Four bytes are no vector of NEON's: they go through the stack into the low half of eight. */
V_INLINE vf v_load_u8_n(const uint8_t *p, int n) {
    uint8_t bytes[8] = {0};
    memcpy(bytes, p, (size_t)n);
    uint16x4_t wide = vget_low_u16(vmovl_u8(vld1_u8(bytes)));
    return vcvtq_f32_u32(vmovl_u16(wide));
}
V_INLINE vf v_load_bf16(const uint16_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
V_INLINE vf v_load_bf16_n(const uint16_t *p, int n) {
    uint16_t lanes[VL] = {0};
    memcpy(lanes, p, (size_t)n * sizeof *p);
    return v_load_bf16(lanes);
}
V_INLINE void v_store_u16(uint16_t *p, vi i) {
    vst1_u16(p, vmovn_u32(vreinterpretq_u32_s32(i)));
}
V_INLINE void v_store_u16_n(uint16_t *p, vi i, int n) {
    uint16_t lanes[VL];
    v_store_u16(lanes, i);
    memcpy(p, lanes, (size_t)n * sizeof *p);
}
V_INLINE void v_stream_u16(uint16_t *p, vi i) {
    v_store_u16(p, i);
}

V_INLINE vf v_load_u8(const uint8_t *p) {
    return v_load_u8_n(p, 4);
}

/* p · 2^n for whole n in [-252, 254]: two factors, since 2^n alone leaves the normal range. */
V_INLINE vf v_scale_by_power(vf p, vf n) {
    vi whole = v_to_int(n), half = v_to_int(v_mul(n, v_set1(0.5f))), bias = v_set1_int(127);
    p = v_mul(p, v_as_float(v_shift_left(v_add_int(half, bias), 23)));
    return v_mul(p, v_as_float(v_shift_left(v_add_int(v_sub_int(whole, half), bias), 23)));
}

#endif
