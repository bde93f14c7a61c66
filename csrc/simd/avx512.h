/* The vocabulary of simd.h on AVX-512 (F, BW, DQ, VL): sixteen lanes, thirty-two registers, and
 * masks in registers of their own, so that a tail costs nothing. */
#ifndef DD_SIMD_AVX512_H
#define DD_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define DD_NAME(f) dd_##f##__avx512
#define V_INLINE static inline __attribute__((always_inline, unused))
#define VL 16
#define V_REGISTERS 32

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

V_INLINE __mmask16 v_tail(int n) {
    return (__mmask16)((1u << n) - 1u);
}

V_INLINE vf v_zero(void) {
    return _mm512_setzero_ps();
}
V_INLINE vf v_set1(float x) {
    return _mm512_set1_ps(x);
}
V_INLINE vf v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
V_INLINE void v_store(float *p, vf v) {
    _mm512_storeu_ps(p, v);
}
/* Past the caches, to a multiple of the vector's size; v_stream_end before others may read it. */
V_INLINE void v_stream(float *p, vf v) {
    _mm512_stream_ps(p, v);
}
V_INLINE void v_stream_end(void) {
    _mm_sfence();
}
V_INLINE vf v_load_n(const float *p, int n) {
    return _mm512_maskz_loadu_ps(v_tail(n), p);
}
V_INLINE void v_store_n(float *p, vf v, int n) {
    _mm512_mask_storeu_ps(p, v_tail(n), v);
}

V_INLINE vf v_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
V_INLINE vf v_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
V_INLINE vf v_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
V_INLINE vf v_neg(vf a) {
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
V_INLINE vf v_abs(vf a) {
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a);
}
V_INLINE vf v_sqrt(vf a) {
    return _mm512_sqrt_ps(a);
}
V_INLINE vf v_floor(vf a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}

V_INLINE vm v_lt(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
V_INLINE vm v_le(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}
V_INLINE vm v_gt(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
V_INLINE vm v_ge(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
V_INLINE vm v_eq(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
V_INLINE vf v_select(vm m, vf a, vf b) {
    return _mm512_mask_blend_ps(m, b, a);
}
V_INLINE vi v_select_int(vm m, vi a, vi b) {
    return _mm512_mask_blend_epi32(m, b, a);
}

/* Halves, then quarters, ...: written out, since compilers differ in the order of their reduce. */
V_INLINE float v_sum(vf v) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}
V_INLINE void v_add_doubles(double *p, vf v) {
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
    _mm512_storeu_pd(p, _mm512_add_pd(_mm512_loadu_pd(p), low));
    _mm512_storeu_pd(p + 8, _mm512_add_pd(_mm512_loadu_pd(p + 8), high));
}

V_INLINE vi v_to_int(vf x) {
    return _mm512_cvtps_epi32(x);
}
V_INLINE vf v_to_float(vi i) {
    return _mm512_cvtepi32_ps(i);
}
V_INLINE vf v_as_float(vi i) {
    return _mm512_castsi512_ps(i);
}
V_INLINE vi v_as_int(vf x) {
    return _mm512_castps_si512(x);
}
V_INLINE vi v_set1_int(int32_t i) {
    return _mm512_set1_epi32(i);
}
V_INLINE vi v_add_int(vi a, vi b) {
    return _mm512_add_epi32(a, b);
}
V_INLINE vi v_sub_int(vi a, vi b) {
    return _mm512_sub_epi32(a, b);
}
V_INLINE vi v_and_int(vi a, vi b) {
    return _mm512_and_si512(a, b);
}
V_INLINE vi v_or_int(vi a, vi b) {
    return _mm512_or_si512(a, b);
}
V_INLINE vi v_shift_left(vi i, int bits) {
    return _mm512_sll_epi32(i, _mm_cvtsi32_si128(bits));
}
V_INLINE vi v_shift_right(vi i, int bits) {
    return _mm512_srl_epi32(i, _mm_cvtsi32_si128(bits));
}
V_INLINE vi v_load_int(const int32_t *p) {
    return _mm512_loadu_si512(p);
}
V_INLINE void v_store_int(int32_t *p, vi i) {
    _mm512_storeu_si512(p, i);
}
V_INLINE void v_store_int_n(int32_t *p, vi i, int n) {
    _mm512_mask_storeu_epi32(p, v_tail(n), i);
}

V_INLINE vf v_from_u16(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
V_INLINE vf v_load_bf16(const uint16_t *p) {
    return v_from_u16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
V_INLINE vf v_load_bf16_n(const uint16_t *p, int n) {
    return v_from_u16(_mm256_maskz_loadu_epi16(v_tail(n), p));
}
V_INLINE void v_store_u16(uint16_t *p, vi i) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(i));
}
V_INLINE void v_store_u16_n(uint16_t *p, vi i, int n) {
    _mm256_mask_storeu_epi16(p, v_tail(n), _mm512_cvtepi32_epi16(i));
}
V_INLINE void v_stream_u16(uint16_t *p, vi i) {
    _mm256_stream_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(i));
}

V_INLINE vf v_load_u8(const uint8_t *p) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}
V_INLINE vf v_load_u8_n(const uint8_t *p, int n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(v_tail(n), p)));
}

/* p · 2^n for whole n; one instruction here. */
V_INLINE vf v_scale_by_power(vf p, vf n) {
    return _mm512_scalef_ps(p, n);
}

#endif
