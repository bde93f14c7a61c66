/* Batch norm's passes over a map: sums, affine with activation, and both halves of the gradient.
 * All are bound by memory, so the code aims at one visit of every float and few instructions.
 *
 * The sums hold a group of G channel vectors in registers and run along the row, P pixels at a
 * time with sums of their own; G·P is what hides the latency of additions and still fits the
 * registers. Within a row the order of additions is a function of x and the level alone; the row's
 * float32 sums are then added to the double ones.
 *
 * The maps go four pixels at a time through all their channels, so that a channel's constants are
 * read once for the four. */
#include "kernels/activation.h"

/* `n` lanes of an array of floats or, where `half`, of bfloat16. */
V_INLINE vf load_any(const float *array, int64_t at, int n, bool half) {
    const uint16_t *halves = (const uint16_t *)(const void *)array + at;
    if (!half)
        return V_LOAD(array + at, n);
    return n == VL ? v_load_bf16(halves) : v_load_bf16_n(halves, n);
}

static const float *offset_any(const float *array, int64_t by, bool half) {
    return half ? (const float *)(const void *)((const uint16_t *)(const void *)array + by)
                : array + by;
}

/* ---- sums ---------------------------------------------------------------------------------- */

/* Channels whose double sums a call keeps on the stack: whole vectors there, whatever the caller's
 * array ends with. Wider maps are visited once per so many channels. */
enum { SUM_CHANNELS = 256 };

typedef struct double_sums {
    double first[SUM_CHANNELS], second[SUM_CHANNELS];
} double_sums;

static void clear_sums(double_sums *s, int c) {
    for (int i = 0; i < SUM_CHANNELS && i < c + VL - 1; i++)
        s->first[i] = s->second[i] = 0.0;
}

static void add_sums(double *to, const double *from, int c) {
    for (int i = 0; i < c; i++)
        to[i] += from[i];
}

/* Adds the P partial sums of each of G vectors, neighbours first, and then to the doubles. The
 * partial sum of vector g and pixel p is part[p·G + g]. */
V_INLINE void add_parts(double *to, vf *part, int G, int P) {
    DD_UNROLL
    for (int step = 1; step < P; step *= 2) {
        DD_UNROLL
        for (int i = 0; i + step < P; i += 2 * step) {
            DD_UNROLL
            for (int g = 0; g < G; g++)
                part[i * G + g] = v_add(part[i * G + g], part[(i + step) * G + g]);
        }
    }
    DD_UNROLL
    for (int g = 0; g < G; g++)
        v_add_doubles(to + g * VL, part[g]);
}

/* P pixels from x on; n lanes in the last of G vectors. */
V_INLINE void sums_step(const float *x, int64_t pitch, const vf *shift, int G, int P, int n,
                        bool squares, vf *sum, vf *square) {
    DD_UNROLL
    for (int p = 0; p < P; p++) {
        DD_UNROLL
        for (int g = 0; g < G; g++) {
            vf v = V_LOAD(x + p * pitch + g * VL, g == G - 1 ? n : VL);
            v = v_sub(v, shift[g]);
            sum[p * G + g] = v_add(sum[p * G + g], v);
            if (squares)
                square[p * G + g] = v_fma(v, v, square[p * G + g]);
        }
    }
}

/* G vectors from channel ch on, one row. */
V_INLINE void sums_group(const dd_channel_sums *s, const float *row, double_sums *total, int G,
                         int P, int ch, int n, bool squares) {
    vf shift[4], sum[4], square[4];
    DD_UNROLL
    for (int g = 0; g < G; g++)
        shift[g] = s->shift ? V_LOAD(s->shift + ch + g * VL, g == G - 1 ? n : VL) : v_zero();
    DD_UNROLL
    for (int i = 0; i < G * P; i++)
        sum[i] = square[i] = v_zero();
    const float *x = row + ch;
    int64_t left = s->width;
    DD_ROLLED
    for (; left >= P; left -= P, x += P * s->pitch)
        sums_step(x, s->pitch, shift, G, P, n, squares, sum, square);
    DD_ROLLED
    for (; left > 0; left--, x += s->pitch)
        sums_step(x, s->pitch, shift, G, 1, n, squares, sum, square);
    add_parts(total->first + ch, sum, G, P);
    if (squares)
        add_parts(total->second + ch, square, G, P);
}

V_INLINE void sums_row(const dd_channel_sums *s, const float *row, double_sums *total,
                       bool squares) {
    int ch = 0;
    for (; ch + 4 * VL <= s->c; ch += 4 * VL)
        sums_group(s, row, total, 4, 1, ch, VL, squares);
    for (; ch + 2 * VL <= s->c; ch += 2 * VL)
        sums_group(s, row, total, 2, 2, ch, VL, squares);
    for (; ch + VL <= s->c; ch += VL)
        sums_group(s, row, total, 1, 4, ch, VL, squares);
    if (ch < s->c)
        sums_group(s, row, total, 1, 4, ch, s->c - ch, squares);
}

/* At most SUM_CHANNELS channels. */
V_INLINE void sums_all(const dd_channel_sums s, bool squares) {
    double_sums total;
    clear_sums(&total, s.c);
    for (int64_t y = 0; y < s.rows; y++)
        sums_row(&s, s.x + y * s.row_pitch, &total, squares);
    add_sums(s.sum, total.first, s.c);
    if (squares)
        add_sums(s.squares, total.second, s.c);
}

void DD_NAME(channel_sums_f32)(const dd_channel_sums *s) {
    for (int ch = 0; ch < s->c; ch += SUM_CHANNELS) {
        dd_channel_sums part = *s;
        part.x += ch;
        part.c = s->c - ch < SUM_CHANNELS ? s->c - ch : SUM_CHANNELS;
        part.shift = s->shift ? s->shift + ch : NULL;
        part.sum += ch;
        if (s->squares == NULL) {
            sums_all(part, false);
            continue;
        }
        part.squares += ch;
        sums_all(part, true);
    }
}

/* ---- the gradient's sums ------------------------------------------------------------------- */

typedef struct reduce_constants {
    vf scale[2], shift[2], mean[2];
} reduce_constants;

/* dz · act'(x·scale + shift). */
V_INLINE vf through_activation(dd_act act, vf dz, vf x, vf scale, vf shift) {
    if (act.kind == DD_IDENTITY)
        return dz;
    return v_mul(dz, act_slope_hot(act, v_fma(x, scale, shift)));
}

V_INLINE void reduce_step(const dd_bn_reduce *r, dd_act act, int64_t dz, int64_t x,
                          const reduce_constants *k, int G, int P, int n, vf *sum_d, vf *sum_dx) {
    DD_UNROLL
    for (int p = 0; p < P; p++) {
        DD_UNROLL
        for (int g = 0; g < G; g++) {
            const int lanes = g == G - 1 ? n : VL, i = p * G + g;
            vf v = load_any(r->x, x + p * r->pitch + g * VL, lanes, r->x_bf16);
            vf d = load_any(r->dz, dz + p * r->dz_pitch + g * VL, lanes, r->dz_bf16);
            d = through_activation(act, d, v, k->scale[g], k->shift[g]);
            sum_d[i] = v_add(sum_d[i], d);
            sum_dx[i] = v_fma(d, v_sub(v, k->mean[g]), sum_dx[i]);
        }
    }
}

V_INLINE void reduce_group(const dd_bn_reduce *r, dd_act act, double_sums *total, int64_t y, int G,
                           int P, int ch, int n) {
    reduce_constants k;
    vf sum_d[4], sum_dx[4];
    DD_UNROLL
    for (int g = 0; g < G; g++) {
        const int lanes = g == G - 1 ? n : VL, at = ch + g * VL;
        k.scale[g] = r->scale ? V_LOAD(r->scale + at, lanes) : v_set1(1.0f);
        k.shift[g] = r->shift ? V_LOAD(r->shift + at, lanes) : v_zero();
        k.mean[g] = r->mean ? V_LOAD(r->mean + at, lanes) : v_zero();
    }
    DD_UNROLL
    for (int i = 0; i < G * P; i++)
        sum_d[i] = sum_dx[i] = v_zero();
    int64_t x = y * r->row_pitch + ch, dz = y * r->dz_row_pitch + ch, left = r->width;
    DD_ROLLED
    for (; left >= P; left -= P, x += P * r->pitch, dz += P * r->dz_pitch)
        reduce_step(r, act, dz, x, &k, G, P, n, sum_d, sum_dx);
    DD_ROLLED
    for (; left > 0; left--, x += r->pitch, dz += r->dz_pitch)
        reduce_step(r, act, dz, x, &k, G, 1, n, sum_d, sum_dx);
    add_parts(total->first + ch, sum_d, G, P);
    add_parts(total->second + ch, sum_dx, G, P);
}

/* At most SUM_CHANNELS channels. */
V_INLINE void reduce_all(const dd_bn_reduce r, dd_act act) {
    double_sums total;
    clear_sums(&total, r.c);
    for (int64_t y = 0; y < r.rows; y++) {
        int ch = 0;
        for (; ch + 2 * VL <= r.c; ch += 2 * VL)
            reduce_group(&r, act, &total, y, 2, 1, ch, VL);
        for (; ch + VL <= r.c; ch += VL)
            reduce_group(&r, act, &total, y, 1, 2, ch, VL);
        if (ch < r.c)
            reduce_group(&r, act, &total, y, 1, 2, ch, r.c - ch);
    }
    add_sums(r.sum_d, total.first, r.c);
    add_sums(r.sum_dx, total.second, r.c);
}

void DD_NAME(bn_reduce_f32)(const dd_bn_reduce *r) {
    for (int ch = 0; ch < r->c; ch += SUM_CHANNELS) {
        dd_bn_reduce part = *r;
        part.dz = offset_any(r->dz, ch, r->dz_bf16);
        part.x = offset_any(r->x, ch, r->x_bf16);
        part.c = r->c - ch < SUM_CHANNELS ? r->c - ch : SUM_CHANNELS;
        part.scale = r->scale ? r->scale + ch : NULL;
        part.shift = r->shift ? r->shift + ch : NULL;
        part.mean = r->mean ? r->mean + ch : NULL;
        part.sum_d += ch;
        part.sum_dx += ch;
        if (part.x_bf16 || part.dz_bf16) {
            ACT_DISPATCH(r->act.kind, reduce_all(part, act_of_kind(KIND, r->act)))
            continue;
        }
        part.x_bf16 = part.dz_bf16 = false; /* constants for this copy of the loops */
        ACT_DISPATCH(r->act.kind, reduce_all(part, act_of_kind(KIND, r->act)))
    }
}

/* ---- maps
   ----------------------------------------------------------------------------------------- */

/* P pixels from p on, n channels from ch on. */
V_INLINE void affine_tile(const dd_affine *a, dd_act act, int P, int64_t p, int ch, int n) {
    vf scale = a->scale ? V_LOAD(a->scale + ch, n) : v_set1(1.0f);
    vf shift = a->shift ? V_LOAD(a->shift + ch, n) : v_zero();
    const int64_t x = p * a->pitch + ch;
    float *y = a->y + p * a->y_pitch + ch;
    vf v[4];
    DD_UNROLL
    for (int i = 0; i < P; i++)
        v[i] =
            act_apply_hot(act, v_fma(load_any(a->x, x + i * a->pitch, n, a->x_bf16), scale, shift));
    if (a->residual != NULL) {
        const float *residual = a->residual + p * a->residual_pitch + ch;
        DD_UNROLL
        for (int i = 0; i < P; i++)
            v[i] = v_add(v[i], V_LOAD(residual + i * a->residual_pitch, n));
    }
    DD_UNROLL
    for (int i = 0; i < P; i++)
        V_STORE(y + i * a->y_pitch, v[i], n);
}

V_INLINE void affine_pixels(const dd_affine *a, dd_act act, int P, int64_t p) {
    int ch = 0;
    for (; ch + VL <= a->c; ch += VL)
        affine_tile(a, act, P, p, ch, VL);
    if (ch < a->c)
        affine_tile(a, act, P, p, ch, a->c - ch);
}

/* The arguments come as a copy: the compiler then knows that stores leave them be. */
V_INLINE void affine_all(const dd_affine a, dd_act act) {
    int64_t p = 0;
    for (; p + 4 <= a.pixels; p += 4)
        affine_pixels(&a, act, 4, p);
    for (; p < a.pixels; p++)
        affine_pixels(&a, act, 1, p);
}

void DD_NAME(affine_f32)(const dd_affine *a) {
    dd_affine copy = *a;
    if (a->x_bf16) {
        ACT_DISPATCH(a->act.kind, affine_all(copy, act_of_kind(KIND, a->act)))
        return;
    }
    copy.x_bf16 = false; /* a constant for this copy of the loops */
    ACT_DISPATCH(a->act.kind, affine_all(copy, act_of_kind(KIND, a->act)))
}

V_INLINE void bn_dx_tile(const dd_bn_dx *b, dd_act act, int P, int64_t pixel, int ch, int n) {
    vf scale = b->scale ? V_LOAD(b->scale + ch, n) : v_set1(1.0f);
    vf shift = b->shift ? V_LOAD(b->shift + ch, n) : v_zero();
    vf p = V_LOAD(b->p + ch, n), q = V_LOAD(b->q + ch, n), r = V_LOAD(b->r + ch, n);
    const int64_t dz = pixel * b->dz_pitch + ch, x = pixel * b->pitch + ch;
    float *dx = b->dx + pixel * b->dx_pitch + ch;
    DD_UNROLL
    for (int i = 0; i < P; i++) {
        vf v = load_any(b->x, x + i * b->pitch, n, b->x_bf16);
        vf d = load_any(b->dz, dz + i * b->dz_pitch, n, b->dz_bf16);
        d = through_activation(act, d, v, scale, shift);
        V_STORE(dx + i * b->dx_pitch, v_fma(d, p, v_fma(v, q, r)), n);
    }
}

V_INLINE void bn_dx_pixels(const dd_bn_dx *b, dd_act act, int P, int64_t pixel) {
    int ch = 0;
    for (; ch + VL <= b->c; ch += VL)
        bn_dx_tile(b, act, P, pixel, ch, VL);
    if (ch < b->c)
        bn_dx_tile(b, act, P, pixel, ch, b->c - ch);
}

V_INLINE void bn_dx_all(const dd_bn_dx b, dd_act act) {
    int64_t pixel = 0;
    for (; pixel + 4 <= b.pixels; pixel += 4)
        bn_dx_pixels(&b, act, 4, pixel);
    for (; pixel < b.pixels; pixel++)
        bn_dx_pixels(&b, act, 1, pixel);
}

void DD_NAME(bn_dx_f32)(const dd_bn_dx *b) {
    dd_bn_dx copy = *b;
    if (b->x_bf16 || b->dz_bf16) {
        ACT_DISPATCH(b->act.kind, bn_dx_all(copy, act_of_kind(KIND, b->act)))
        return;
    }
    copy.x_bf16 = copy.dz_bf16 = false; /* constants for this copy of the loops */
    ACT_DISPATCH(b->act.kind, bn_dx_all(copy, act_of_kind(KIND, b->act)))
}
