/* Training's 1×1 → batch norm → activation → depthwise, without the wide map between them.
 *
 * The wide map is the largest of its block, and forward and backward would write and read it six
 * times. Here it is computed again from the narrow map wherever it is needed, some rows or pixels
 * at a time, and never stored; neither is its gradient. What needs the whole batch comes from the
 * narrow map's moments and from sums over products. With x the narrow map less its mean m, C its
 * covariance, n pixels, W the weights, z = W·x the wide map less its mean:
 *
 *   statistics    mean W·m, variance diag(W·C·Wᵀ): exact, whatever x is
 *   forward       u = (γ·rstd·W)·x + β, which depthwise goes on with (step_conv_pieces.c)
 *   backward      g = act'(u)·(depthwise dx), and over all pixels G = Σ x·gᵀ, Σ g
 *                 (step_depthwise_backward.c)
 *   its norm      Σ g·z = diag(W·G), hence p, q, r of dz = p·g + q·z + r
 *   weights       Σ dz·xᵀ = p·Gᵀ + q·n·W·C, since x sums to zero
 *   dx            Wᵀ·dz = (p·W)ᵀ·g + (Wᵀ·q·W)·x + Wᵀ·r: the first term in the same pass over the
 *                 pixels, the others, which need its sums, in one over the narrow maps
 *
 * Taking the mean from x first keeps the sums free of cancellation. C, K: channels of the narrow
 * and the wide map. */
#include "graph/steps.h"

#include <string.h>

enum {
    MOMENT_PIXELS = 256, /* whose moments are summed in float32 */
    MIX_FLOATS = 4096,   /* of a piece of the last pass over the narrow maps */
    PAYS = 2,            /* wide channels a narrow one from which on it is faster */
};

/* ---- the narrow map ------------------------------------------------------------------------ */

/* Floats between its pixels in scratch: a one stands behind the channels. */
static int64_t narrow_pitch(const dd_conv *c) {
    return (c->c_in + 8) / 8 * 8;
}

static void set_ones(const dd_conv *c, float *narrow, int64_t pixels) {
    for (int64_t i = 0; i < pixels; i++)
        narrow[i * narrow_pitch(c) + c->c_in] = 1;
}

/* Pixels from (n, y, x) on plus `shift`. */
static void load_narrow(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                        int64_t pixels, const float *shift, float *to) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    int64_t pitch = narrow_pitch(c);
    dd_load_pixels_at(run, s->x, n, y, x, pixels, to, pitch);
    dd_affine a = {.x = to,
                   .pitch = pitch,
                   .y = to,
                   .y_pitch = pitch,
                   .pixels = pixels,
                   .c = c->c_in,
                   .shift = shift};
    run->plan->kernels->affine_f32(&a);
}

static int64_t slots_of(const dd_conv *c) {
    return c->n * c->h < DD_SLOTS ? c->n * c->h : DD_SLOTS;
}

/* ---- its moments --------------------------------------------------------------------------- */

/* Of a slot, about a guess of the mean: Σ x·xᵀ, then Σ x. */
static size_t moment_count(const dd_conv *c) {
    return (size_t)(c->c_in + 1) * (size_t)c->c_in;
}

/* A slot's sums and scratch: pixels, float32 sums, the guess and its negative. */
static size_t moments_scratch(const dd_conv *c) {
    return (size_t)(MOMENT_PIXELS * narrow_pitch(c)) + moment_count(c) + 4 * (size_t)c->c_in + 64;
}

/* Minus the mean of the first row, which is near enough to that of the map; the same for every
 * slot. */
static void guess_mean(const dd_run *run, const dd_step *s, float *pixels, float *negative) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    int64_t count = c->w < MOMENT_PIXELS ? c->w : MOMENT_PIXELS;
    dd_load_pixels_at(run, s->x, 0, 0, 0, count, pixels, narrow_pitch(c));
    for (int k = 0; k < c->c_in; k++) {
        double sum = 0;
        for (int64_t i = 0; i < count; i++)
            sum += (double)pixels[i * narrow_pitch(c) + k];
        negative[k] = (float)(-sum / (double)count);
    }
}

static void moments_piece(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                          int64_t pixels, float *scratch, const float *guess, double *sums) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    size_t count = moment_count(c);
    float *part = scratch + MOMENT_PIXELS * narrow_pitch(c);
    dd_ahead ahead = {0};
    dd_ahead_add(run, s->x, n, y, x + pixels, pixels, &ahead);
    dd_ahead_some(&ahead);
    load_narrow(run, s, n, y, x, pixels, guess, scratch);
    memset(part, 0, count * sizeof *part);
    dd_gemm_tn g = {.a = scratch,
                    .lda = narrow_pitch(c),
                    .b = scratch,
                    .ldb = narrow_pitch(c),
                    .c = part,
                    .ldc = c->c_in,
                    .m = pixels,
                    .k = c->c_in + 1,
                    .n = c->c_in,
                    .ahead = &ahead};
    run->plan->kernels->gemm_tn_f32(&g);
    for (size_t i = 0; i < count; i++)
        sums[i] += (double)part[i];
}

static void moments_slot(const dd_run *run, const dd_step *s, int64_t unit, float *scratch) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    double *sums = run->plan->sums + s->expansion.moments + (size_t)unit * moment_count(c);
    float *guess = scratch + MOMENT_PIXELS * narrow_pitch(c) + moment_count(c);
    int64_t row, end;
    guess_mean(run, s, scratch, guess);
    set_ones(c, scratch, MOMENT_PIXELS);
    memset(sums, 0, moment_count(c) * sizeof *sums);
    dd_cut(c->n * c->h, slots_of(c), unit, &row, &end);
    while (row < end) {
        int64_t y = row % c->h, rows = end - row < c->h - y ? end - row : c->h - y;
        for (int64_t x = 0; x < rows * c->w; x += MOMENT_PIXELS)
            moments_piece(run, s, row / c->h, y, x,
                          rows * c->w - x < MOMENT_PIXELS ? rows * c->w - x : MOMENT_PIXELS,
                          scratch, guess, sums);
        row += rows;
    }
}

/* Σ over slots, into the first: the covariance about the true mean, row C the mean itself. */
static void finish_moments(const dd_run *run, const dd_step *s, float *scratch) {
    dd_plan *plan = run->plan;
    const dd_conv *c = &plan->convs[s->expansion.conv];
    size_t count = moment_count(c), width = (size_t)c->c_in;
    double *sums = plan->sums + s->expansion.moments, *mean = sums + width * width;
    float *guess = scratch + MOMENT_PIXELS * narrow_pitch(c) + count;
    double n = (double)(c->n * c->h * c->w);
    for (size_t slot = 1; slot < (size_t)slots_of(c); slot++)
        for (size_t i = 0; i < count; i++)
            sums[i] += sums[slot * count + i];
    for (size_t i = 0; i < count; i++)
        sums[i] /= n;
    for (size_t j = 0; j < width; j++)
        for (size_t k = 0; k < width; k++)
            sums[j * width + k] -= mean[j] * mean[k];
    guess_mean(run, s, scratch, guess);
    for (size_t k = 0; k < width; k++) {
        mean[k] -= (double)guess[k];
        plan->vectors[s->expansion.shift + k] = (float)-mean[k];
    }
}

/* The norm's statistics, and the weights with its scale, packed for both directions. */
static void fold_norm(const dd_run *run, const dd_step *s, float *scratch) {
    dd_plan *plan = run->plan;
    const dd_expansion *e = &s->expansion;
    const dd_conv *c = &plan->convs[e->conv];
    const double *covariance = plan->sums + e->moments;
    const double *mean = covariance + c->c_in * c->c_in;
    const float *weight = dd_store_data(run->binding->store, c->weight);
    for (int o = 0; o < c->c_out; o++) {
        const float *w = weight + (int64_t)o * c->c_in;
        double wide_mean = 0, var = 0;
        for (int j = 0; j < c->c_in; j++) {
            double row = 0;
            for (int k = 0; k < c->c_in; k++)
                row += covariance[j * c->c_in + k] * (double)w[k];
            var += row * (double)w[j];
            wide_mean += mean[j] * (double)w[j];
        }
        dd_norm_set(run, e->norm, o, wide_mean, var);
        float scale = plan->vectors[plan->norms[e->norm].scale + (size_t)o];
        for (int k = 0; k < c->c_in; k++)
            scratch[o * c->c_in + k] = w[k] * scale;
    }
    plan->kernels->gemm_f32_pack(scratch, 1, c->c_in, c->c_in, c->c_out, plan->packed + e->packed);
    plan->kernels->gemm_f32_pack(scratch, c->c_in, 1, c->c_out, c->c_in,
                                 plan->packed + e->packed_dx);
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
    int64_t sizes[] = {pixels * narrow_pitch(c),
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
        set_ones(c, p->narrow, pixels);
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
    load_narrow(run, s, n, y, x, pixels, plan->vectors + e->shift, narrow);
    dd_gemm g = {.a = &a,
                 .lda = narrow_pitch(c),
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
                       .lda = narrow_pitch(c),
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

/* ---- forward ------------------------------------------------------------------------------- */

static int64_t forward_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    const dd_conv *c = &plan->convs[s->conv];
    (void)threads;
    if (phase == 2)
        return c->n * c->oh < DD_SLOTS ? c->n * c->oh : DD_SLOTS;
    return phase ? 1 : slots_of(&plan->convs[s->expansion.conv]);
}

static void forward_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv];
    float *scratch = dd_scratch(run, thread);
    int64_t row, end;
    switch (phase) {
    case 0:
        moments_slot(run, s, unit, scratch);
        return;
    case 1:
        finish_moments(run, s, scratch);
        fold_norm(run, s, scratch);
        return;
    case 2:
        if (s->norm >= 0) {
            const dd_norm *norm = &run->plan->norms[s->norm];
            memset(run->plan->sums + norm->sums + (size_t)unit * 2 * (size_t)norm->c, 0,
                   2 * (size_t)norm->c * sizeof(double));
        }
        dd_cut(c->n * c->oh, forward_units(run->plan, s, 2, 1), unit, &row, &end);
        dd_conv_pieces(run, s, row, end, unit, scratch);
        return;
    default:
        dd_norm_finish(run, s->norm);
    }
}

/* ---- backward ------------------------------------------------------------------------------ */

/* Σ over slots of G's row k (row C: Σ g), for all wide channels. */
static void add_slots(const dd_run *run, const dd_step *s, int k, double *sum) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    const float *from = run->plan->slots + s->expansion.slots + (int64_t)k * c->c_out;
    memset(sum, 0, (size_t)c->c_out * sizeof *sum);
    for (int slot = 0; slot < s->n_slots; slot++, from += (c->c_in + 1) * c->c_out)
        for (int o = 0; o < c->c_out; o++)
            sum[o] += (double)from[o];
}

/* The norm's gradient, and p, q, r: its sums go to its first slot. `sums` is G, K numbers a row. */
static void finish_norm(const dd_run *run, const dd_step *s, const double *sums) {
    dd_plan *plan = run->plan;
    const dd_expansion *e = &s->expansion;
    const dd_conv *c = &plan->convs[e->conv];
    const float *weight = dd_store_data(run->binding->store, c->weight);
    double *slot = plan->sums + plan->norms[e->norm].sums;
    for (int o = 0; o < c->c_out; o++) {
        slot[o] = sums[c->c_in * c->c_out + o];
        slot[c->c_out + o] = 0;
        for (int k = 0; k < c->c_in; k++)
            slot[c->c_out + o] += (double)weight[o * c->c_in + k] * sums[k * c->c_out + o];
    }
    dd_norm_gradient_finish(run, &e->reduction, 1);
}

/* Adds p·Gᵀ + q·n·W·C to the gradient of the weights. */
static void finish_weights(const dd_run *run, const dd_step *s, const double *sums) {
    dd_plan *plan = run->plan;
    const dd_expansion *e = &s->expansion;
    const dd_conv *c = &plan->convs[e->conv];
    const dd_norm *norm = &plan->norms[e->norm];
    const double *covariance = plan->sums + e->moments;
    const float *weight = dd_store_data(run->binding->store, c->weight);
    float *to = run->binding->gradient + run->binding->store->entries[e->dw_entry].offset;
    for (int o = 0; o < c->c_out; o++) {
        double p = (double)plan->vectors[norm->p + (size_t)o];
        double q = (double)plan->vectors[norm->q + (size_t)o] * (double)norm->count;
        for (int k = 0; k < c->c_in; k++) {
            double row = 0;
            for (int j = 0; j < c->c_in; j++)
                row += (double)weight[o * c->c_in + j] * covariance[j * c->c_in + k];
            to[o * c->c_in + k] += (float)(p * sums[k * c->c_out + o] + q * row);
        }
    }
}

/* What the last pass adds to dx: Wᵀ·q·W packed, and Wᵀ·r with r = -p·Σg / n. */
static void finish_mix(const dd_run *run, const dd_step *s, const double *sums, float *scratch) {
    dd_plan *plan = run->plan;
    const dd_expansion *e = &s->expansion;
    const dd_conv *c = &plan->convs[e->conv];
    const dd_norm *norm = &plan->norms[e->norm];
    const float *weight = dd_store_data(run->binding->store, c->weight);
    const double *all = sums + c->c_in * c->c_out;
    for (int k = 0; k < c->c_in; k++) {
        double constant = 0;
        for (int o = 0; o < c->c_out; o++)
            constant -= (double)plan->vectors[norm->p + (size_t)o] * all[o] *
                        (double)weight[o * c->c_in + k];
        plan->vectors[e->mix_shift + (size_t)k] = (float)(constant / (double)norm->count);
        for (int j = 0; j < c->c_in; j++) {
            double sum = 0;
            for (int o = 0; o < c->c_out; o++)
                sum += (double)plan->vectors[norm->q + (size_t)o] *
                       (double)weight[o * c->c_in + j] * (double)weight[o * c->c_in + k];
            scratch[j * c->c_in + k] = (float)sum;
        }
    }
    plan->kernels->gemm_f32_pack(scratch, c->c_in, 1, c->c_in, c->c_in, plan->packed + e->mix);
}

static void finish_backward(const dd_run *run, const dd_step *s, void *scratch) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    double *sums = scratch;
    float *rest = (float *)(void *)(sums + (c->c_in + 1) * c->c_out);
    for (int k = 0; k <= c->c_in; k++)
        add_slots(run, s, k, sums + k * c->c_out);
    finish_norm(run, s, sums);
    finish_weights(run, s, sums);
    if (s->dx >= 0)
        finish_mix(run, s, sums, rest);
    dd_conv_dw_reduce(run, s, &run->plan->convs[s->conv], 0, 1);
}

static int64_t mix_piece(const dd_conv *c) {
    int64_t pixels = MIX_FLOATS / narrow_pitch(c) / 8 * 8;
    return pixels < 32 ? 32 : pixels;
}

/* dx += x·mix + mix_shift, with the sums for the batch norm before it. */
static void mix_pixels(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                       int64_t pixels, int64_t unit, float *scratch) {
    dd_plan *plan = run->plan;
    const dd_expansion *e = &s->expansion;
    const dd_conv *c = &plan->convs[e->conv];
    float *first = scratch + mix_piece(c) * narrow_pitch(c);
    float *spare = first + dd_load_floats(plan, s->dx, mix_piece(c));
    const float *a = scratch;
    dd_ahead ahead = {0};
    dd_ahead_add(run, s->x, n, y, x + pixels, pixels, &ahead);
    dd_ahead_add(run, s->dx, n, y, x + pixels, pixels, &ahead);
    if (s->reduction.norm >= 0)
        dd_ahead_add(run, plan->norms[s->reduction.norm].x, n, y, x + pixels, pixels, &ahead);
    dd_ahead_some(&ahead);
    load_narrow(run, s, n, y, x, pixels, plan->vectors + e->shift, scratch);
    dd_gemm g = {.a = &a,
                 .lda = narrow_pitch(c),
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

static void mix_slot(const dd_run *run, const dd_step *s, int64_t unit, float *scratch) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    int64_t row, end, piece = mix_piece(c);
    if (s->reduction.norm >= 0)
        dd_norm_gradient_begin(run, &s->reduction, unit);
    dd_cut(c->n * c->h, s->n_slots, unit, &row, &end);
    while (row < end) {
        int64_t y = row % c->h, rows = end - row < c->h - y ? end - row : c->h - y;
        for (int64_t x = 0; x < rows * c->w; x += piece)
            mix_pixels(run, s, row / c->h, y, x, rows * c->w - x < piece ? rows * c->w - x : piece,
                       unit, scratch);
        row += rows;
    }
    dd_pieces_done(run, s->dx);
}

static int64_t backward_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    (void)plan;
    (void)threads;
    return phase % 2 ? 1 : s->n_slots;
}

static void backward_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv], *e = &run->plan->convs[s->expansion.conv];
    int64_t taps = c->k_h * c->k_w * dd_depthwise_pitch(c), floats = (e->c_in + 1) * e->c_out;
    switch (phase) {
    case 0:
        memset(run->plan->slots + unit * taps, 0, (size_t)taps * sizeof(float));
        memset(run->plan->slots + s->expansion.slots + unit * floats, 0,
               (size_t)floats * sizeof(float));
        dd_depthwise_backward_unit(run, s, unit, thread);
        return;
    case 1:
        finish_backward(run, s, dd_scratch(run, thread));
        return;
    case 2:
        mix_slot(run, s, unit, dd_scratch(run, thread));
        return;
    default:
        dd_norm_gradient_finish(run, &s->reduction, s->n_slots);
    }
}

/* ---- matching ------------------------------------------------------------------------------ */

/* The nodes of a block, in the graph's order. */
typedef struct block {
    int expand, norm, depthwise;                    /* forward */
    int depthwise_dx, depthwise_dw;                 /* backward */
    int norm_reduce, norm_dx, expand_dx, expand_dw; /* expand_dx -1: unwanted */
} block;

/* The one reader of `value` that is an `op` and free; -1 where there is none. *others counts the
 * rest. */
static int reader_of(const dd_plan *plan, int value, const dd_op *op, int *others) {
    int found = -1;
    for (int i = 0; i < plan->n_readers[value]; i++) {
        int r = plan->readers[value][i];
        const dd_node *n = &plan->graph->nodes[r];
        if (n->op == op && !n->backward && found < 0)
            found = r;
        else
            (*others)++;
    }
    return found;
}

static bool is_hidden(const dd_plan *plan, int value) {
    return plan->graph->values[value].kind == DD_VALUE_NODE && !dd_is_output(plan, value) &&
           plan->values[value].root == value;
}

static bool free_conv(const dd_plan *plan, int node, const dd_op *op) {
    const dd_node *n = node >= 0 ? &plan->graph->nodes[node] : NULL;
    return n && n->op == op && !n->backward && !plan->taken[node] && plan->conv_of[node] >= 0;
}

/* 1×1 → norm → activation before the depthwise convolution, read by nothing else. */
static bool find_forward(const dd_plan *plan, block *b) {
    const dd_graph *g = plan->graph;
    int wide = g->nodes[b->depthwise].in[0], others = 0;
    const dd_pvalue *v = &plan->values[wide];
    if (v->pending != DD_PENDING_AFFINE || !is_hidden(plan, wide) || !is_hidden(plan, v->x))
        return false;
    const dd_norm *norm = &plan->norms[v->norm];
    b->norm = norm->node;
    b->expand = g->values[v->x].producer;
    if (!norm->batch || plan->taken[b->norm] || !free_conv(plan, b->expand, &dd_op_conv) ||
        b->expand >= g->n_forward)
        return false;
    b->norm_reduce = reader_of(plan, v->x, &dd_op_bn_reduce, &others);
    b->norm_dx = reader_of(plan, v->x, &dd_op_bn_dx, &others);
    if (b->norm_reduce < 0 || b->norm_dx < 0 || plan->taken[b->norm_reduce] ||
        plan->norm_of[b->norm_reduce] != v->norm || plan->norm_of[b->norm_dx] != v->norm ||
        plan->n_readers[v->x] != 3)
        return false;
    const dd_conv *c = &plan->convs[plan->conv_of[b->expand]];
    return dd_conv_pointwise(c) && c->bias < 0 && c->c_out >= PAYS * c->c_in;
}

/* The gradients, read by nothing else as well. */
static bool find_backward(const dd_plan *plan, block *b) {
    const dd_graph *g = plan->graph;
    const dd_node *norm_dx = &g->nodes[b->norm_dx];
    int wide = g->nodes[b->depthwise].in[0], d_after = norm_dx->in[0], d_before = norm_dx->out[0];
    int others = 0;
    if (g->nodes[b->norm_reduce].in[0] != d_after || !is_hidden(plan, d_after) ||
        plan->values[d_after].pending || plan->n_readers[d_after] != 2 ||
        plan->values[d_before].pending != DD_PENDING_BN_DX || !is_hidden(plan, d_before))
        return false;
    b->depthwise_dx = g->values[d_after].producer;
    b->depthwise_dw = reader_of(plan, wide, &dd_op_conv_dw, &others);
    b->expand_dw = reader_of(plan, d_before, &dd_op_conv_dw, &others);
    b->expand_dx = reader_of(plan, d_before, &dd_op_conv_dx, &others);
    if (!free_conv(plan, b->depthwise_dx, &dd_op_conv_dx) ||
        !free_conv(plan, b->depthwise_dw, &dd_op_conv_dw) ||
        !free_conv(plan, b->expand_dw, &dd_op_conv_dw) || plan->n_readers[wide] != 2 ||
        plan->n_readers[d_before] != 1 + (b->expand_dx >= 0))
        return false;
    const dd_node *dx = &g->nodes[b->depthwise_dx], *dw = &g->nodes[b->depthwise_dw];
    return plan->conv_of[b->depthwise_dx] == plan->conv_of[b->depthwise_dw] &&
           dx->in[0] == dw->in[1] && dw->in[0] == wide &&
           g->nodes[b->expand_dw].in[0] == g->nodes[b->expand].in[0] &&
           dd_gradient_entry(plan, dw->out[0]) >= 0 &&
           dd_gradient_entry(plan, g->nodes[b->expand_dw].out[0]) >= 0;
}

static size_t take_floats(size_t *size, size_t floats) {
    size_t at = *size;
    *size += (floats + 15) / 16 * 16;
    return at;
}

static dd_expansion new_expansion(dd_plan *plan, const block *b) {
    const dd_pvalue *wide = &plan->values[plan->graph->nodes[b->depthwise].in[0]];
    const dd_kernels_table *kernels = plan->kernels;
    dd_expansion e = {.conv = plan->conv_of[b->expand], .norm = wide->norm, .act = wide->act};
    const dd_conv *c = &plan->convs[e.conv];
    e.moments = plan->sums_size;
    plan->sums_size += (size_t)slots_of(c) * moment_count(c);
    e.shift = take_floats(&plan->vectors_size, (size_t)c->c_in);
    e.mix_shift = take_floats(&plan->vectors_size, (size_t)c->c_in);
    e.packed = take_floats(&plan->packed_size, kernels->gemm_f32_packed(c->c_in, c->c_out));
    e.packed_dx = take_floats(&plan->packed_size, kernels->gemm_f32_packed(c->c_out, c->c_in));
    e.mix = take_floats(&plan->packed_size, kernels->gemm_f32_packed(c->c_in, c->c_in));
    return e;
}

static size_t most(size_t a, size_t b) {
    return a > b ? a : b;
}

static dd_status make_forward(dd_plan *plan, const block *b, const dd_expansion *e) {
    const dd_node *n = &plan->graph->nodes[b->depthwise];
    dd_conv *c = &plan->convs[plan->conv_of[b->depthwise]];
    const dd_conv *wide = &plan->convs[e->conv];
    dd_step *s;
    DD_TRY(dd_step_new(plan, "expand", &s));
    s->expansion = *e;
    s->conv = plan->conv_of[b->depthwise];
    s->run = forward_run;
    s->units = forward_units;
    s->x = plan->graph->nodes[b->expand].in[0];
    s->y = n->out[0];
    dd_step_node(plan, s, b->expand);
    dd_step_node(plan, s, b->norm);
    dd_step_node(plan, s, b->depthwise);
    dd_step_reads(plan, s, s->x);
    dd_conv_epilogue(plan, s, c);
    dd_conv_take_sums(plan, s);
    dd_step_writes(s, s->y);
    s->n_phases = s->norm >= 0 ? 4 : 3;
    s->by_pieces = s->halves = true;
    s->scratch =
        most(dd_conv_pieces_scratch(plan, s, c),
             most(moments_scratch(wide), (size_t)(wide->c_in * wide->c_out)) * sizeof(float));
    dd_conv_use(plan, c);
    return DD_OK;
}

static dd_status make_backward(dd_plan *plan, const block *b, const dd_expansion *e) {
    const dd_node *dw = &plan->graph->nodes[b->depthwise_dw];
    dd_conv *c = &plan->convs[plan->conv_of[b->depthwise_dw]];
    const dd_conv *wide = &plan->convs[e->conv];
    const int nodes[] = {b->depthwise_dx, b->depthwise_dw, b->norm_reduce, b->expand_dw};
    dd_step *s;
    DD_TRY(dd_step_new(plan, "expand_backward", &s));
    s->expansion = *e;
    s->conv = plan->conv_of[b->depthwise_dw];
    s->run = backward_run;
    s->units = backward_units;
    s->dy = dw->in[1];
    s->x = plan->graph->nodes[b->expand].in[0];
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
        dd_step_node(plan, s, nodes[i]);
    if (b->expand_dx >= 0) {
        dd_step_node(plan, s, b->expand_dx);
        s->dx = plan->graph->nodes[b->expand_dx].out[0];
    }
    dd_step_reads(plan, s, s->dy);
    dd_step_reads(plan, s, s->x);
    s->dw_entry = dd_gradient_entry(plan, dw->out[0]);
    s->expansion.dw_entry = dd_gradient_entry(plan, plan->graph->nodes[b->expand_dw].out[0]);
    s->expansion.reduction = dd_norm_gradient_of(plan, s, b->norm_reduce);
    if (s->dx >= 0) {
        dd_conv_take_residual(plan, s, wide);
        dd_conv_take_reduction(plan, s);
        dd_step_writes(s, s->dx);
    }
    c->uses_dx = true;
    c->packed_dx = take_floats(&plan->packed_size, c->packed_dx_floats);
    s->halves = true;
    s->n_slots = (int)slots_of(c);
    s->n_phases = s->dx < 0 ? 2 : s->reduction.norm < 0 ? 3 : 4;
    size_t taps = (size_t)(c->k_h * c->k_w) * (size_t)dd_depthwise_pitch(c);
    size_t sums = (size_t)(wide->c_in + 1) * (size_t)wide->c_out;
    s->expansion.slots = taps * (size_t)s->n_slots;
    plan->slots_size = most(plan->slots_size, (taps + sums) * (size_t)s->n_slots);
    size_t mix = (size_t)(mix_piece(wide) * narrow_pitch(wide));
    if (s->dx >= 0)
        mix += (size_t)(dd_load_floats(plan, s->dx, mix_piece(wide)) +
                        dd_piece_floats(plan, s->dx, mix_piece(wide)));
    s->scratch = most(dd_depthwise_backward_scratch(plan, s, c),
                      most(mix, 2 * sums + (size_t)(wide->c_in * wide->c_in)) * sizeof(float));
    return DD_OK;
}

dd_status dd_match_expand(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    block b = {.depthwise = node};
    if (!plan->graph->training || node >= plan->graph->n_forward ||
        !free_conv(plan, node, &dd_op_conv))
        return DD_OK;
    const dd_conv *c = &plan->convs[plan->conv_of[node]];
    if (!c->depthwise || c->k_h > 64 || c->bias >= 0 || !find_forward(plan, &b) ||
        !find_backward(plan, &b))
        return DD_OK;
    dd_expansion e = new_expansion(plan, &b);
    DD_TRY(make_forward(plan, &b, &e));
    DD_TRY(make_backward(plan, &b, &e));
    *matched = true;
    return DD_OK;
}
