/* The vocabulary of simd.h on AVX2 and FMA: eight lanes, sixteen registers. */
#ifndef DD_SIMD_AVX2_H
#define DD_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define DD_NAME(f) dd_##f##__avx2
#define V_INLINE static inline __attribute__((always_inline, unused))
#define VL 8
#define V_REGISTERS 16

typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm; /* all bits of a lane set, or none */

/* The mask of n lanes is eight words of this table from 8 - n on. */
static const int32_t v_tail_words[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
V_INLINE __m256i v_tail(int n) {
    return _mm256_loadu_si256((const __m256i *)(const void *)(v_tail_words + 8 - n));
}

V_INLINE vf v_zero(void) {
    return _mm256_setzero_ps();
}
V_INLINE vf v_set1(float x) {
    return _mm256_set1_ps(x);
}
V_INLINE vf v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
V_INLINE void v_store(float *p, vf v) {
    _mm256_storeu_ps(p, v);
}
/* Past the caches, to a multiple of the vector's size; v_stream_end before others may read it. */
V_INLINE void v_stream(float *p, vf v) {
    _mm256_stream_ps(p, v);
}
V_INLINE void v_stream_end(void) {
    _mm_sfence();
}
V_INLINE vf v_load_n(const float *p, int n) {
    return _mm256_maskload_ps(p, v_tail(n));
}
V_INLINE void v_store_n(float *p, vf v, int n) {
    _mm256_maskstore_ps(p, v_tail(n), v);
}

V_INLINE vf v_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
V_INLINE vf v_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
V_INLINE vf v_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
V_INLINE vf v_neg(vf a) {
    return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f));
}
V_INLINE vf v_abs(vf a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
V_INLINE vf v_sqrt(vf a) {
    return _mm256_sqrt_ps(a);
}
V_INLINE vf v_floor(vf a) {
    return _mm256_floor_ps(a);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}

V_INLINE vm v_lt(vf a, vf b) {
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
V_INLINE vm v_le(vf a, vf b) {
    return _mm256_cmp_ps(a, b, _CMP_LE_OQ);
}
V_INLINE vm v_gt(vf a, vf b) {
    return _mm256_cmp_ps(a, b, _CMP_GT_OQ);
}
V_INLINE vm v_ge(vf a, vf b) {
    return _mm256_cmp_ps(a, b, _CMP_GE_OQ);
}
V_INLINE vm v_eq(vf a, vf b) {
    return _mm256_cmp_ps(a, b, _CMP_EQ_OQ);
}
V_INLINE vf v_select(vm m, vf a, vf b) {
    return _mm256_blendv_ps(b, a, m);
}
V_INLINE vi v_select_int(vm m, vi a, vi b) {
    return _mm256_blendv_epi8(b, a, _mm256_castps_si256(m));
}

/* Halves, then quarters, then the last two. */
V_INLINE float v_sum(vf v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}
V_INLINE void v_add_doubles(double *p, vf v) {
    __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
    _mm256_storeu_pd(p, _mm256_add_pd(_mm256_loadu_pd(p), low));
    _mm256_storeu_pd(p + 4, _mm256_add_pd(_mm256_loadu_pd(p + 4), high));
}

V_INLINE vi v_to_int(vf x) {
    return _mm256_cvtps_epi32(x);
}
V_INLINE vf v_to_float(vi i) {
    return _mm256_cvtepi32_ps(i);
}
V_INLINE vf v_as_float(vi i) {
    return _mm256_castsi256_ps(i);
}
V_INLINE vi v_as_int(vf x) {
    return _mm256_castps_si256(x);
}
V_INLINE vi v_set1_int(int32_t i) {
    return _mm256_set1_epi32(i);
}
V_INLINE vi v_add_int(vi a, vi b) {
    return _mm256_add_epi32(a, b);
}
V_INLINE vi v_sub_int(vi a, vi b) {
    return _mm256_sub_epi32(a, b);
}
V_INLINE vi v_and_int(vi a, vi b) {
    return _mm256_and_si256(a, b);
}
V_INLINE vi v_or_int(vi a, vi b) {
    return _mm256_or_si256(a, b);
}
V_INLINE vi v_shift_left(vi i, int bits) {
    return _mm256_sll_epi32(i, _mm_cvtsi32_si128(bits));
}
V_INLINE vi v_shift_right(vi i, int bits) {
    return _mm256_srl_epi32(i, _mm_cvtsi32_si128(bits));
}
V_INLINE vi v_load_int(const int32_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
V_INLINE void v_store_int(int32_t *p, vi i) {
    _mm256_storeu_si256((__m256i *)(void *)p, i);
}
V_INLINE void v_store_int_n(int32_t *p, vi i, int n) {
    _mm256_maskstore_epi32(p, v_tail(n), i);
}

V_INLINE vf v_from_u16(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
V_INLINE __m128i v_to_u16(vi i) {
    return _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
}
V_INLINE vf v_load_bf16(const uint16_t *p) {
    return v_from_u16(_mm_loadu_si128((const __m128i *)(const void *)p));
}
V_INLINE vf v_load_bf16_n(const uint16_t *p, int n) {
    uint16_t lanes[VL] = {0};
    memcpy(lanes, p, (size_t)n * sizeof *p);
    return v_load_bf16(lanes);
}
V_INLINE void v_store_u16(uint16_t *p, vi i) {
    _mm_storeu_si128((__m128i *)(void *)p, v_to_u16(i));
}
V_INLINE void v_store_u16_n(uint16_t *p, vi i, int n) {
    uint16_t lanes[VL];
    v_store_u16(lanes, i);
    memcpy(p, lanes, (size_t)n * sizeof *p);
}
V_INLINE void v_stream_u16(uint16_t *p, vi i) {
    _mm_stream_si128((__m128i *)(void *)p, v_to_u16(i));
}

V_INLINE vf v_load_u8(const uint8_t *p) {
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}
/* There are no byte masks here: the bytes go through the stack. */
V_INLINE vf v_load_u8_n(const uint8_t *p, int n) {
    uint8_t bytes[8] = {0};
    memcpy(bytes, p, (size_t)n);
    return v_load_u8(bytes);
}

/* p · 2^n for whole n in [-252, 254]: two factors, since 2^n alone leaves the normal range. */
V_INLINE vf v_scale_by_power(vf p, vf n) {
    vi whole = v_to_int(n), half = v_to_int(v_mul(n, v_set1(0.5f))), bias = v_set1_int(127);
    p = v_mul(p, v_as_float(v_shift_left(v_add_int(half, bias), 23)));
    return v_mul(p, v_as_float(v_shift_left(v_add_int(v_sub_int(whole, half), bias), 23)));
}

#endif
