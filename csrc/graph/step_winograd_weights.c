/* The gradient of a 3×3 kernel by Winograd's transforms: the patches of x as in the forward, the
 * tiles of dy by the transpose of the outputs' transform, α² products of matrices (x's channels ×
 * tiles × y's channels) that add up over all tiles, and one transform back: as few multiplications
 * as in the forward, and sums as exact as the direct ones.
 *
 * Rounds of tiles as in step_winograd.c, whose letters these are: the transforms share the tiles
 * out, the products the planes. A plane's sums go on from round to round in the order of tiles, so
 * that neither rounds nor threads show in the bits. */
#include "graph/winograd.h"

#include <string.h>

enum {
    ROUND_TILES = 50, /* both planes and the sums stay in the second-level cache */
    PHASES = 2,       /* of a round */
    PARTS = 16,       /* of the transform back: by channels of x */
};

static int64_t rounds_of(const dd_plan *plan, const dd_conv *c) {
    int64_t rows = c->n * dd_winograd_tiles_y(c), at_once = ROUND_TILES / dd_winograd_tiles_x(c);
    if (plan->options.strip_rows > 0)
        at_once = plan->options.strip_rows;
    at_once = at_once < 1 ? 1 : at_once;
    return (rows + at_once - 1) / at_once;
}

/* Floats between the sums of two channels of x, of two planes. */
static int64_t row_floats(const dd_conv *c) {
    return (c->c_out + 15) / 16 * 16;
}
static int64_t plane_floats(const dd_conv *c) {
    return c->c_in * row_floats(c);
}

/* The sums lie behind the planes of the largest round. */
static float *sums_of(const dd_run *run, const dd_step *s, const dd_conv *c) {
    return run->plan->slots + s->planes + s->planes_floats -
           dd_winograd_planes(c) * plane_floats(c);
}

/* Tiles of one row, to r->m: dy by the transpose of the outputs' transform. */
static void gradient_tiles(const dd_run *run, const dd_step *s, const dd_conv *c,
                           const dd_winograd_round *r, int64_t tile, int64_t count,
                           float *scratch) {
    const int64_t row = r->begin + tile / dd_winograd_tiles_x(c), n = row / dd_winograd_tiles_y(c);
    const int64_t width = count * c->winograd;
    dd_winograd_load(run, s->dy, n, row % dd_winograd_tiles_y(c) * c->winograd,
                     tile % dd_winograd_tiles_x(c) * c->winograd, c->winograd, width, scratch);
    dd_winograd_input w = {.side = c->winograd,
                           .x = scratch,
                           .pitch = c->c_out,
                           .row_pitch = width * c->c_out,
                           .tiles = count,
                           .c = c->c_out,
                           .v = r->m + tile * c->c_out,
                           .v_pitch = c->c_out,
                           .plane = r->m_plane};
    run->plan->kernels->winograd_gradient_f32(&w);
}

static void add_plane(const dd_run *run, const dd_step *s, const dd_conv *c,
                      const dd_winograd_round *r, int64_t plane) {
    float *sums = sums_of(run, s, c) + plane * plane_floats(c);
    if (r->begin == 0)
        memset(sums, 0, (size_t)plane_floats(c) * sizeof(float));
    dd_gemm_tn g = {.a = r->v + plane * r->v_plane,
                    .lda = c->c_in,
                    .b = r->m + plane * r->m_plane,
                    .ldb = c->c_out,
                    .c = sums,
                    .ldc = row_floats(c),
                    .m = r->tiles,
                    .k = c->c_in,
                    .n = c->c_out};
    run->plan->kernels->gemm_tn_f32(&g);
}

/* The transform back of channels [begin, end) of x, added to the gradient (OIHW). */
static void finish_part(const dd_run *run, const dd_step *s, const dd_conv *c, int64_t part,
                        float *taps) {
    int64_t begin, end, row = row_floats(c);
    float factors[9 * DD_WINOGRAD_PLANES];
    float *to = run->binding->gradient + run->binding->store->entries[s->dw_entry].offset;
    dd_cut(c->c_in, PARTS, part, &begin, &end);
    if (begin == end)
        return;
    for (int p = 0; p < dd_winograd_planes(c); p++)
        for (int tap = 0; tap < 9; tap++)
            factors[p * 9 + tap] = dd_winograd_factor(c, p, tap);
    const int64_t floats = (end - begin) * row;
    memset(taps, 0, (size_t)(9 * floats) * sizeof(float));
    dd_gemm_tn g = {.a = factors,
                    .lda = 9,
                    .b = sums_of(run, s, c) + begin * row,
                    .ldb = plane_floats(c),
                    .c = taps,
                    .ldc = floats,
                    .m = dd_winograd_planes(c),
                    .k = 9,
                    .n = (int)floats};
    run->plan->kernels->gemm_tn_f32(&g);
    for (int64_t o = 0; o < c->c_out; o++)
        for (int64_t i = begin; i < end; i++)
            for (int tap = 0; tap < 9; tap++)
                to[(o * c->c_in + i) * 9 + tap] += taps[tap * floats + (i - begin) * row + o];
}

static void weights_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv];
    float *scratch = dd_scratch(run, thread);
    if (phase == s->n_phases - 1) {
        finish_part(run, s, c, unit, scratch);
        return;
    }
    const dd_winograd_round r =
        dd_winograd_round_of(run->plan, s, phase / PHASES, s->n_phases / PHASES);
    if (phase % PHASES == 1) {
        add_plane(run, s, c, &r, unit);
        return;
    }
    int64_t row, end, tiles = dd_winograd_tiles_x(c);
    dd_cut(r.end - r.begin, s->units(run->plan, s, phase, 1), unit, &row, &end);
    for (; row < end; row++) {
        dd_winograd_patches(run, s->x, c, &r, row * tiles, tiles, scratch);
        gradient_tiles(run, s, c, &r, row * tiles, tiles, scratch);
    }
}

static int64_t weights_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    const dd_conv *c = &plan->convs[s->conv];
    (void)threads;
    if (phase == s->n_phases - 1)
        return PARTS;
    if (phase % PHASES == 1)
        return dd_winograd_planes(c);
    dd_winograd_round r = dd_winograd_round_of(plan, s, phase / PHASES, s->n_phases / PHASES);
    return r.end - r.begin;
}

/* Scratch: a row of patches, or the taps of a part. */
static size_t scratch_floats(const dd_conv *c) {
    int64_t patch = (c->winograd + 2) * (dd_winograd_tiles_x(c) * c->winograd + 2);
    int64_t widest = c->c_in > c->c_out ? c->c_in : c->c_out;
    int64_t taps = 9 * ((c->c_in + PARTS - 1) / PARTS) * row_floats(c);
    return (size_t)(patch * widest > taps ? patch * widest : taps);
}

dd_status dd_winograd_weights_match(dd_plan *plan, int node, bool *matched) {
    const dd_node *n = &plan->graph->nodes[node];
    int conv = plan->conv_of[node];
    if (n->backward || conv < 0 || !dd_winograd_pays(&plan->convs[conv]) ||
        dd_gradient_entry(plan, n->out[0]) < 0 ||
        (n->n_out > 1 && (dd_gradient_entry(plan, n->out[1]) >= 0 ||
                          (n->out[1] >= 0 && plan->n_readers[n->out[1]] > 0))))
        return DD_OK; /* the gradient of a bias is the plain step's */
    DD_TRY(dd_winograd_record(plan, plan->convs[conv], &conv));
    dd_conv *c = &plan->convs[conv];
    dd_step *s;
    DD_TRY(dd_step_new(plan, "winograd", &s));
    c->winograd = dd_winograd_side(c);
    s->conv = conv;
    s->run = weights_run;
    s->units = weights_units;
    s->x = n->in[0];
    s->dy = n->in[1];
    s->dw_entry = dd_gradient_entry(plan, n->out[0]);
    dd_step_node(plan, s, node);
    dd_step_reads(plan, s, s->x);
    dd_step_reads(plan, s, s->dy);
    s->halves = true;
    s->n_phases = (int)(PHASES * rounds_of(plan, c) + 1);
    for (int i = 0; i < s->n_phases / PHASES; i++) {
        dd_winograd_round r = dd_winograd_round_of(plan, s, i, s->n_phases / PHASES);
        size_t floats = (size_t)(dd_winograd_planes(c) * (r.v_plane + r.m_plane));
        s->planes_floats = floats > s->planes_floats ? floats : s->planes_floats;
    }
    s->planes_floats += (size_t)(dd_winograd_planes(c) * plane_floats(c));
    s->scratch = scratch_floats(c) * sizeof(float);
    *matched = true;
    return DD_OK;
}
