/* Pixels of an expansion that is computed again (step_expand.c): the narrow map, the wide one and
 * its way back. */
#include "graph/expand.h"

#include <string.h>

enum { MIX_FLOATS = 1024 }; /* of a piece of the last pass over the narrow maps */

/* ---- the narrow map ------------------------------------------------------------------------ */

void dd_expand_set_ones(const dd_conv *c, float *narrow, int64_t pixels) {
    for (int64_t i = 0; i < pixels; i++)
        narrow[i * dd_expand_pitch(c) + c->c_in] = 1;
}

/* Pixels from (n, y, x) on plus `shift`: in one pass where they are stored, or a batch norm away.
 */
void dd_expand_load_narrow(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                           int64_t pixels, const float *shift, float *to) {
    const dd_plan *plan = run->plan;
    const dd_conv *c = &plan->convs[s->expansion.conv];
    const dd_pvalue *v = &plan->values[s->x];
    dd_affine a = {.x = to,
                   .pitch = dd_expand_pitch(c),
                   .y = to,
                   .y_pitch = dd_expand_pitch(c),
                   .pixels = pixels,
                   .c = c->c_in,
                   .shift = shift};
    int from = v->pending == DD_PENDING_AFFINE ? v->x : v->pending == DD_STORED ? s->x : -1;
    if (from >= 0) {
        a.x = dd_pixels(run, from, n, y, x);
        a.pitch = plan->values[from].pitch;
        a.x_bf16 = dd_is_half(plan, from);
    } else {
        dd_load_pixels_at(run, s->x, n, y, x, pixels, to, a.pitch);
    }
    if (v->pending == DD_PENDING_AFFINE) {
        a.scale = plan->vectors + plan->norms[v->norm].scale;
        a.shift = plan->vectors + plan->norms[v->norm].shift;
        a.act = v->act;
        a.residual = shift; /* the same for every pixel */
        a.residual_pitch = 0;
    }
    plan->kernels->affine_f32(&a);
}

/* ---- the wide map, again ------------------------------------------------------------------- */

/* Floats between pixels of the wide map in scratch: whole cache lines. */
static int64_t wide_pitch(const dd_conv *c) {
    return (c->c_out + 15) / 16 * 16;
}

/* Whether the slope of the activation shows in its result as well. */
static bool slope_in_result(dd_act act) {
    return act.kind == DD_RELU || act.kind == DD_IDENTITY;
}

int64_t dd_expand_place(const dd_plan *plan, const dd_step *s, int64_t pixels, float *scratch,
                        dd_expanded *p) {
    const dd_conv *c = &plan->convs[s->expansion.conv];
    int64_t wide = pixels * wide_pitch(c), part = (c->c_in + 1) * c->c_out, at = 0;
    bool twice = s->backward && !slope_in_result(s->expansion.act);
    int64_t sizes[] = {pixels * dd_expand_pitch(c),
                       s->backward ? wide : 0,
                       twice ? wide : 0,
                       s->backward ? wide : 0,
                       s->backward ? part : 0,
                       s->backward && s->dx >= 0 ? dd_piece_floats(plan, s->dx, pixels) : 0};
    float **parts[] = {&p->narrow, &p->before, &p->after, &p->gradient, &p->part, &p->dx};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        *parts[i] = scratch ? scratch + at : NULL;
        at += (sizes[i] + 15) / 16 * 16;
    }
    p->after = twice ? p->after : p->before;
    p->pitch = wide_pitch(c);
    if (scratch && s->backward) {
        dd_expand_set_ones(c, p->narrow, pixels);
        memset(p->part, 0, (size_t)part * sizeof(float));
    }
    return at;
}

void dd_expand_pixels(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                      int64_t pixels, dd_act act, float *narrow, float *to, int64_t pitch) {
    dd_plan *plan = run->plan;
    const dd_expansion *e = &s->expansion;
    const dd_conv *c = &plan->convs[e->conv];
    const float *a = narrow;
    dd_expand_load_narrow(run, s, n, y, x, pixels, plan->vectors + e->shift, narrow);
    dd_gemm g = {.a = &a,
                 .lda = dd_expand_pitch(c),
                 .segments = 1,
                 .k = c->c_in,
                 .b = plan->packed + e->packed,
                 .c = to,
                 .ldc = pitch,
                 .m = pixels,
                 .n = c->c_out,
                 .bias = dd_store_data(run->binding->store, plan->norms[e->norm].beta),
                 .act = act,
                 .n_end = c->c_out};
    plan->kernels->gemm_f32(&g);
}

const float *dd_expand_again(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                             int64_t pixels, const dd_expanded *p) {
    dd_act act = s->expansion.act;
    bool twice = p->after != p->before;
    dd_expand_pixels(run, s, n, y, x, pixels, twice ? (dd_act){0} : act, p->narrow, p->before,
                     p->pitch);
    if (twice)
        run->plan->kernels->unary_f32(act, p->before, p->after, pixels * p->pitch);
    return p->after;
}

void dd_expand_gradient(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                        int64_t pixels, const dd_expanded *p, dd_ahead *ahead) {
    dd_plan *plan = run->plan;
    const dd_expansion *e = &s->expansion;
    const dd_conv *c = &plan->convs[e->conv];
    if (e->act.kind != DD_IDENTITY)
        plan->kernels->unary_backward_f32(e->act, p->before, p->gradient, p->gradient,
                                          pixels * p->pitch);
    dd_gemm_tn sums = {.a = p->narrow,
                       .lda = dd_expand_pitch(c),
                       .b = p->gradient,
                       .ldb = p->pitch,
                       .c = p->part,
                       .ldc = c->c_out,
                       .m = pixels,
                       .k = c->c_in + 1,
                       .n = c->c_out,
                       .ahead = ahead};
    plan->kernels->gemm_tn_f32(&sums);
    if (s->dx < 0)
        return;
    const float *a = p->gradient;
    dd_gemm g = {.a = &a,
                 .lda = p->pitch,
                 .segments = 1,
                 .k = c->c_out,
                 .b = plan->packed + e->packed_dx,
                 .m = pixels,
                 .n = c->c_in,
                 .n_end = c->c_in};
    g.c = dd_piece_begin(run, s->dx, n, y, x, p->dx, &g.ldc);
    if (s->dx_residual >= 0) {
        g.ldr = plan->values[s->dx_residual].pitch;
        g.residual = dd_row(run, s->dx_residual, n, y) + x * g.ldr;
    }
    plan->kernels->gemm_f32(&g);
    dd_piece_end(run, s->dx, n, y, x, pixels, g.c);
}

void dd_expand_add_part(const dd_run *run, const dd_step *s, const dd_expanded *p, int64_t slot) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    int64_t floats = (c->c_in + 1) * c->c_out;
    float *to = run->plan->slots + s->expansion.slots + slot * floats;
    run->plan->kernels->binary_f32(DD_ADD, to, p->part, to, floats);
    memset(p->part, 0, (size_t)floats * sizeof(float));
}

/* ---- the rest of dx ------------------------------------------------------------------------ */

int64_t dd_expand_mix_piece(const dd_conv *c) {
    int64_t pixels = MIX_FLOATS / dd_expand_pitch(c) / 8 * 8;
    return pixels < 24 ? 24 : pixels;
}

/* dx += x·mix + mix_shift, with the sums for the batch norm before it. */
void dd_expand_mix(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                   int64_t pixels, int64_t unit, float *scratch) {
    dd_plan *plan = run->plan;
    const dd_expansion *e = &s->expansion;
    const dd_conv *c = &plan->convs[e->conv];
    float *first = scratch + dd_expand_mix_piece(c) * dd_expand_pitch(c);
    float *spare = first + dd_load_floats(plan, s->dx, dd_expand_mix_piece(c));
    const float *a = scratch;
    dd_ahead ahead = {0};
    dd_ahead_add(run, s->x, n, y, x + pixels, pixels, &ahead);
    dd_ahead_add(run, s->dx, n, y, x + pixels, pixels, &ahead);
    if (s->reduction.norm >= 0)
        dd_ahead_add(run, plan->norms[s->reduction.norm].x, n, y, x + pixels, pixels, &ahead);
    dd_ahead_some(&ahead);
    dd_expand_load_narrow(run, s, n, y, x, pixels, plan->vectors + e->shift, scratch);
    dd_gemm g = {.a = &a,
                 .lda = dd_expand_pitch(c),
                 .segments = 1,
                 .k = c->c_in,
                 .b = plan->packed + e->mix,
                 .m = pixels,
                 .n = c->c_in,
                 .bias = plan->vectors + e->mix_shift,
                 .residual = first,
                 .ldr = c->c_in,
                 .n_end = c->c_in};
    if (dd_is_floats(plan, s->dx)) {
        g.ldr = plan->values[s->dx].pitch;
        g.residual = dd_pixels(run, s->dx, n, y, x);
    } else {
        dd_load_pixels(run, s->dx, n, y, x, pixels, first);
    }
    g.c = dd_piece_begin(run, s->dx, n, y, x, spare, &g.ldc);
    plan->kernels->gemm_f32(&g);
    dd_ahead_some(&ahead);
    if (s->reduction.norm >= 0)
        dd_norm_gradient_pixels(run, &s->reduction, g.c, g.ldc, n, y, x, pixels, unit);
    dd_ahead_some(&ahead);
    dd_piece_end(run, s->dx, n, y, x, pixels, g.c);
}
