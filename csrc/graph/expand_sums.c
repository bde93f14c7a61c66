/* The sums of an expansion (step_expand.c, whose letters these are): the narrow map's moments, the
 * norm that follows from them, and all that the backward's sums give. */
#include "graph/expand.h"

#include <string.h>

enum { MOMENT_PIXELS = 128 }; /* whose moments are summed in float32 */

/* ---- its moments --------------------------------------------------------------------------- */

/* A slot's sums and scratch: pixels, float32 sums, the guess and its negative. */
size_t dd_expand_moments_floats(const dd_conv *c) {
    return (size_t)(MOMENT_PIXELS * dd_expand_pitch(c)) + dd_expand_moment_count(c) +
           4 * (size_t)c->c_in + 64;
}

/* Minus the mean of the first row, which is near enough to that of the map; the same for every
 * slot. */
static void guess_mean(const dd_run *run, const dd_step *s, float *pixels, float *negative) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    int64_t count = c->w < MOMENT_PIXELS ? c->w : MOMENT_PIXELS;
    dd_load_pixels_at(run, s->x, 0, 0, 0, count, pixels, dd_expand_pitch(c));
    for (int k = 0; k < c->c_in; k++) {
        double sum = 0;
        for (int64_t i = 0; i < count; i++)
            sum += (double)pixels[i * dd_expand_pitch(c) + k];
        negative[k] = (float)(-sum / (double)count);
    }
}

static void moments_piece(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                          int64_t pixels, float *scratch, const float *guess, double *sums) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    size_t count = dd_expand_moment_count(c);
    float *part = scratch + MOMENT_PIXELS * dd_expand_pitch(c);
    dd_ahead ahead = {0};
    dd_ahead_add(run, s->x, n, y, x + pixels, pixels, &ahead);
    dd_ahead_some(&ahead);
    dd_expand_load_narrow(run, s, n, y, x, pixels, guess, scratch);
    memset(part, 0, count * sizeof *part);
    dd_gemm_tn g = {.a = scratch,
                    .lda = dd_expand_pitch(c),
                    .b = scratch,
                    .ldb = dd_expand_pitch(c),
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

void dd_expand_moments(const dd_run *run, const dd_step *s, int64_t unit, float *scratch) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    double *sums =
        run->plan->sums + s->expansion.moments + (size_t)unit * dd_expand_moment_count(c);
    float *guess = scratch + MOMENT_PIXELS * dd_expand_pitch(c) + dd_expand_moment_count(c);
    int64_t row, end;
    guess_mean(run, s, scratch, guess);
    dd_expand_set_ones(c, scratch, MOMENT_PIXELS);
    memset(sums, 0, dd_expand_moment_count(c) * sizeof *sums);
    dd_cut(c->n * c->h, dd_expand_slots(c), unit, &row, &end);
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
void dd_expand_finish_moments(const dd_run *run, const dd_step *s, float *scratch) {
    dd_plan *plan = run->plan;
    const dd_conv *c = &plan->convs[s->expansion.conv];
    size_t count = dd_expand_moment_count(c), width = (size_t)c->c_in;
    double *sums = plan->sums + s->expansion.moments, *mean = sums + width * width;
    float *guess = scratch + MOMENT_PIXELS * dd_expand_pitch(c) + count;
    double n = (double)(c->n * c->h * c->w);
    for (size_t slot = 1; slot < (size_t)dd_expand_slots(c); slot++)
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

/* row = w·C, of a wide channel's weights w. */
static void times_covariance(const dd_conv *c, const float *w, const double *covariance,
                             double *row) {
    memset(row, 0, (size_t)c->c_in * sizeof *row);
    for (int j = 0; j < c->c_in; j++, covariance += c->c_in)
        for (int k = 0; k < c->c_in; k++)
            row[k] += (double)w[j] * covariance[k];
}

/* The norm's statistics, and the weights with its scale, packed for both directions. */
void dd_expand_fold(const dd_run *run, const dd_step *s, void *room) {
    dd_plan *plan = run->plan;
    const dd_expansion *e = &s->expansion;
    const dd_conv *c = &plan->convs[e->conv];
    const double *covariance = plan->sums + e->moments;
    const double *mean = covariance + c->c_in * c->c_in;
    double *row = room;
    float *scratch = (float *)(void *)(row + c->c_in);
    const float *weight = dd_store_data(run->binding->store, c->weight);
    for (int o = 0; o < c->c_out; o++) {
        const float *w = weight + (int64_t)o * c->c_in;
        double wide_mean = 0, var = 0;
        times_covariance(c, w, covariance, row);
        for (int k = 0; k < c->c_in; k++) {
            var += row[k] * (double)w[k];
            wide_mean += mean[k] * (double)w[k];
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

/* ---- after the backward's pass ------------------------------------------------------------ */

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
static void finish_weights(const dd_run *run, const dd_step *s, const double *sums, double *row) {
    dd_plan *plan = run->plan;
    const dd_expansion *e = &s->expansion;
    const dd_conv *c = &plan->convs[e->conv];
    const dd_norm *norm = &plan->norms[e->norm];
    const float *w = dd_store_data(run->binding->store, c->weight);
    float *to = run->binding->gradient + run->binding->store->entries[e->dw_entry].offset;
    for (int o = 0; o < c->c_out; o++, w += c->c_in, to += c->c_in) {
        double p = (double)plan->vectors[norm->p + (size_t)o];
        double q = (double)plan->vectors[norm->q + (size_t)o] * (double)norm->count;
        times_covariance(c, w, plan->sums + e->moments, row);
        for (int k = 0; k < c->c_in; k++)
            to[k] += (float)(p * sums[k * c->c_out + o] + q * row[k]);
    }
}

/* What the last pass adds to dx: Wᵀ·q·W packed, and Wᵀ·r with r = -p·Σg / n. `all` is Σg. */
static void finish_mix(const dd_run *run, const dd_step *s, const double *all, double *scratch) {
    dd_plan *plan = run->plan;
    const dd_expansion *e = &s->expansion;
    const dd_conv *c = &plan->convs[e->conv];
    const dd_norm *norm = &plan->norms[e->norm];
    const float *w = dd_store_data(run->binding->store, c->weight);
    int in = c->c_in;
    double *mix = scratch, *constant = mix + in * in;
    memset(scratch, 0, (size_t)(in * in + in) * sizeof *scratch);
    for (int o = 0; o < c->c_out; o++, w += in) {
        double r = -(double)plan->vectors[norm->p + (size_t)o] * all[o] / (double)norm->count;
        double q = (double)plan->vectors[norm->q + (size_t)o];
        for (int k = 0; k < in; k++)
            constant[k] += r * (double)w[k];
        for (int j = 0; j < in; j++)
            for (int k = 0; k < in; k++)
                mix[j * in + k] += q * (double)w[j] * (double)w[k];
    }
    float *rounded = (float *)(void *)(constant + in);
    for (int i = 0; i < in * in; i++)
        rounded[i] = (float)mix[i];
    for (int k = 0; k < in; k++)
        plan->vectors[e->mix_shift + (size_t)k] = (float)constant[k];
    plan->kernels->gemm_f32_pack(rounded, in, 1, in, in, plan->packed + e->mix);
}

/* Doubles of scratch: G, then what one of the others works on. */
size_t dd_expand_finish_doubles(const dd_conv *c) {
    size_t in = (size_t)c->c_in;
    return (in + 1) * (size_t)c->c_out + 2 * in * in + in;
}

void dd_expand_finish(const dd_run *run, const dd_step *s, void *scratch) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    double *sums = scratch;
    double *all = sums + c->c_in * c->c_out, *rest = all + c->c_out;
    for (int k = 0; k <= c->c_in; k++)
        add_slots(run, s, k, sums + k * c->c_out);
    finish_norm(run, s, sums);
    finish_weights(run, s, sums, rest);
    if (s->dx >= 0)
        finish_mix(run, s, all, rest);
    dd_conv_dw_reduce(run, s, &run->plan->convs[s->conv], 0, 1);
}
