/* The load stage: rows of a value, stored or pending, as dense floats in scratch.
 *
 * N, H, W, C: images, rows, columns, channels of a map. A value of another rank counts as N images
 * of one row. */
#include "graph/steps.h"

#include <string.h>

static char *place_base(const dd_run *run, int value) {
    return run->plan->data[value];
}

void *dd_pixels(const dd_run *run, int value, int64_t n, int64_t y, int64_t x) {
    const dd_pvalue *v = &run->plan->values[value];
    int64_t width = v->type.rank == 4 ? v->type.dims[2] : 0;
    int64_t at = n * v->image + (y * width + x) * v->pitch;
    return place_base(run, value) + at * (int64_t)dd_dtype_bytes(v->type.dtype);
}

float *dd_row(const dd_run *run, int value, int64_t n, int64_t y) {
    return dd_pixels(run, value, n, y, 0);
}

int64_t dd_row_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    dd_map m = dd_map_of(&plan->values[s->y].type);
    int64_t rows = m.n * m.h, units = threads == 1 ? 1 : 4 * (int64_t)threads;
    (void)phase;
    return rows < units ? rows : units;
}

bool dd_is_floats(const dd_plan *plan, int value) {
    return dd_is_stored(plan, value) && plan->values[value].type.dtype == DD_F32;
}

bool dd_is_stored(const dd_plan *plan, int value) {
    return plan->values[value].pending == DD_STORED;
}

void *dd_scratch(const dd_run *run, int thread) {
    return run->plan->scratch + (size_t)thread * run->plan->scratch_bytes;
}

/* bfloat16 of a map of its own, which takes copies of whole rows where pixels are dense. */
static void load_halves(const dd_run *run, int value, int64_t n, int64_t y, int64_t x,
                        int64_t count, float *out, int64_t pitch) {
    const dd_pvalue *v = &run->plan->values[value];
    const uint16_t *from = dd_pixels(run, value, n, y, x);
    int64_t c = dd_type_last(&v->type);
    if (v->pitch == c && pitch == c) {
        run->plan->kernels->bf16_to_f32(from, out, count * c);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        run->plan->kernels->bf16_to_f32(from + i * v->pitch, out + i * pitch, c);
}

static void load_affine(const dd_run *run, const dd_pvalue *v, int64_t n, int64_t y, int64_t x,
                        int64_t count, float *out, int64_t pitch) {
    const dd_norm *norm = &run->plan->norms[v->norm];
    dd_affine a = {.x = dd_pixels(run, v->x, n, y, x),
                   .x_bf16 = dd_is_half(run->plan, v->x),
                   .pitch = run->plan->values[v->x].pitch,
                   .y = out,
                   .y_pitch = pitch,
                   .pixels = count,
                   .c = norm->c,
                   .scale = run->plan->vectors + norm->scale,
                   .shift = run->plan->vectors + norm->shift,
                   .act = v->act};
    run->plan->kernels->affine_f32(&a);
}

static void load_bn_dx(const dd_run *run, const dd_pvalue *v, int64_t n, int64_t y, int64_t x,
                       int64_t count, float *out, int64_t pitch) {
    const dd_norm *norm = &run->plan->norms[v->norm];
    const dd_pvalue *source = &run->plan->values[v->x], *gradient = &run->plan->values[v->dz];
    const float *vectors = run->plan->vectors;
    dd_bn_dx b = {.dz = dd_pixels(run, v->dz, n, y, x),
                  .dz_pitch = gradient->pitch,
                  .dz_bf16 = dd_is_half(run->plan, v->dz),
                  .x_bf16 = dd_is_half(run->plan, v->x),
                  .x = dd_pixels(run, v->x, n, y, x),
                  .pitch = source->pitch,
                  .dx = out,
                  .dx_pitch = pitch,
                  .pixels = count,
                  .c = norm->c,
                  .scale = vectors + norm->scale,
                  .shift = vectors + norm->shift,
                  .p = vectors + norm->p,
                  .q = vectors + norm->q,
                  .r = vectors + norm->r,
                  .act = v->act};
    run->plan->kernels->bn_dx_f32(&b);
}

static void load_u8(const dd_run *run, const dd_pvalue *v, int64_t n, int64_t y, int64_t x,
                    int64_t count, float *out, int64_t pitch) {
    const dd_pvalue *source = &run->plan->values[v->x];
    int64_t c = dd_type_last(&v->type), width = source->type.dims[2];
    const uint8_t *from = (const uint8_t *)run->plan->data[v->x] + n * source->image +
                          (y * width + x) * source->pitch;
    if (source->pitch == c && pitch == c) {
        run->plan->kernels->u8_to_f32(from, v->scale, -v->zero * v->scale, out, count * c);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        run->plan->kernels->u8_to_f32(from + i * source->pitch, v->scale, -v->zero * v->scale,
                                      out + i * pitch, c);
}

/* Each part's channels go between those of its neighbours. */
static void load_parts(const dd_run *run, const dd_pvalue *v, int64_t n, int64_t y, int64_t x,
                       int64_t count, float *out, int64_t pitch) {
    const dd_node *node = &run->plan->graph->nodes[v->parts];
    for (int i = 0; i < node->n_in; i++) {
        dd_load_pixels_at(run, node->in[i], n, y, x, count, out, pitch);
        out += dd_type_last(&run->plan->values[node->in[i]].type);
    }
}

/* Row y of plane 0 of image n of a value that has its channels first. */
static const float *plane_row(const dd_run *run, const dd_pvalue *v, int64_t n, int64_t y) {
    const dd_pvalue *x = &run->plan->values[v->x];
    return (const float *)run->plan->data[v->x] + n * x->image + y * x->type.dims[3];
}

static void load_nchw(const dd_run *run, const dd_pvalue *v, int64_t n, int64_t y, int64_t x,
                      int64_t count, float *out, int64_t pitch) {
    int64_t plane = v->type.dims[1] * v->type.dims[2], c = v->type.dims[3];
    run->plan->kernels->transpose_f32(plane_row(run, v, n, y) + x, plane, out, pitch, c, count);
}

void dd_load_pixels(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t count,
                    float *out) {
    dd_load_pixels_at(run, value, n, y, x, count, out,
                      dd_type_last(&run->plan->values[value].type));
}

void dd_load_pixels_at(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t count,
                       float *out, int64_t pitch) {
    const dd_pvalue *v = &run->plan->values[value];
    switch (v->pending) {
    case DD_STORED:
        if (dd_is_half(run->plan, value))
            load_halves(run, value, n, y, x, count, out, pitch);
        else
            run->plan->kernels->copy_f32(dd_pixels(run, value, n, y, x), v->pitch, out, pitch,
                                         count, dd_type_last(&v->type));
        break;
    case DD_PENDING_U8:
        load_u8(run, v, n, y, x, count, out, pitch);
        break;
    case DD_PENDING_AFFINE:
        load_affine(run, v, n, y, x, count, out, pitch);
        break;
    case DD_PENDING_BN_DX:
        load_bn_dx(run, v, n, y, x, count, out, pitch);
        break;
    case DD_PENDING_PARTS:
        load_parts(run, v, n, y, x, count, out, pitch);
        break;
    case DD_PENDING_NCHW:
        load_nchw(run, v, n, y, x, count, out, pitch);
        break;
    }
}

static void ahead_stored(const dd_run *run, int value, int64_t n, int64_t y, int64_t x,
                         int64_t count, dd_ahead *ahead) {
    const dd_pvalue *v = &run->plan->values[value];
    const char *at = dd_pixels(run, value, n, y, x);
    for (int i = 0; i < ahead->n; i++)
        if (ahead->at[i] == at)
            return;
    if (ahead->n == DD_AHEAD)
        return;
    ahead->at[ahead->n] = at;
    ahead->bytes[ahead->n++] = count * v->pitch * (int64_t)dd_dtype_bytes(v->type.dtype);
}

void dd_ahead_add(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t count,
                  dd_ahead *ahead) {
    if (value < 0)
        return;
    const dd_pvalue *v = &run->plan->values[value];
    if (v->pending == DD_STORED) {
        ahead_stored(run, value, n, y, x, count, ahead);
        return;
    }
    if (v->pending != DD_PENDING_AFFINE && v->pending != DD_PENDING_BN_DX)
        return;
    ahead_stored(run, v->x, n, y, x, count, ahead);
    if (v->pending == DD_PENDING_BN_DX)
        ahead_stored(run, v->dz, n, y, x, count, ahead);
}

/* The second-level cache has 48 requests under way at most. */
enum { AHEAD_LINES = 48, LINE = 64 };

void dd_ahead_some(dd_ahead *ahead) {
    int64_t lines = AHEAD_LINES;
    for (int i = 0; i < ahead->n && lines > 0; i++) {
        int64_t all = (ahead->bytes[i] + LINE - 1) / LINE, now = all < lines ? all : lines;
        for (int64_t k = 0; k < now; k++)
            __builtin_prefetch(ahead->at[i] + k * LINE, 0, 2);
        ahead->at[i] += now * LINE;
        ahead->bytes[i] -= now * LINE;
        lines -= now;
    }
}

void dd_load_strip(const dd_run *run, int value, int64_t n, int64_t first, int64_t rows,
                   int64_t left, int64_t right, float *out) {
    const dd_type *type = &run->plan->values[value].type;
    int64_t h = type->dims[1], w = type->dims[2], c = type->dims[3];
    int64_t padded = (left + w + right) * c;
    for (int64_t i = 0; i < rows; i++, out += padded) {
        int64_t y = first + i;
        if (y < 0 || y >= h) {
            memset(out, 0, (size_t)padded * sizeof(float));
            continue;
        }
        memset(out, 0, (size_t)(left * c) * sizeof(float));
        dd_load_pixels(run, value, n, y, 0, w, out + left * c);
        memset(out + (left + w) * c, 0, (size_t)(right * c) * sizeof(float));
    }
}

void dd_load_planes(const dd_run *run, int value, int64_t n, int64_t first, int64_t rows,
                    int64_t left, int64_t right, float *out) {
    const dd_pvalue *v = &run->plan->values[value];
    int64_t h = v->type.dims[1], w = v->type.dims[2], c = v->type.dims[3],
            padded = left + w + right;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t plane = 0; plane < c; plane++, out += padded) {
            int64_t y = first + i;
            if (y < 0 || y >= h) {
                memset(out, 0, (size_t)padded * sizeof(float));
                continue;
            }
            memset(out, 0, (size_t)left * sizeof(float));
            memcpy(out + left, plane_row(run, v, n, y) + plane * h * w, (size_t)w * sizeof(float));
            memset(out + left + w, 0, (size_t)right * sizeof(float));
        }
}

bool dd_is_in_place(const dd_plan *plan, int value) {
    const dd_pvalue *v = &plan->values[value];
    if (v->pending != DD_PENDING_PARTS)
        return v->pending == DD_STORED;
    const dd_node *n = &plan->graph->nodes[v->parts];
    for (int i = 1; i < n->n_in; i++)
        if (plan->values[n->in[i]].pitch != plan->values[n->in[0]].pitch)
            return false;
    return true;
}

void dd_gemm_source(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, dd_sources *s,
                    dd_gemm *g) {
    const dd_pvalue *v = &run->plan->values[value];
    bool parts = v->pending == DD_PENDING_PARTS;
    const dd_node *node = parts ? &run->plan->graph->nodes[v->parts] : NULL;
    const int *values = parts ? node->in : &value;
    g->segments = parts ? node->n_in : 1;
    g->lda = run->plan->values[values[0]].pitch;
    g->a = s->a;
    g->k = (int)dd_type_last(&v->type);
    g->ks = parts ? s->ks : NULL;
    for (int i = 0; i < g->segments; i++) {
        s->a[i] = dd_row(run, values[i], n, y) + x * g->lda;
        s->ks[i] = (int)dd_type_last(&run->plan->values[values[i]].type);
    }
}

void dd_cut(int64_t n_rows, int64_t units, int64_t unit, int64_t *begin, int64_t *end) {
    *begin = n_rows * unit / units;
    *end = n_rows * (unit + 1) / units;
}
