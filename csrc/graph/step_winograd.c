/* The Winograd step of inference: a 3×3 convolution of stride 1 with many channels.
 *
 * Phases, a barrier after each: the input's tiles are transformed (load: any source), α² matrix
 * products, one a plane, and the transform back (store: bias, residual, activation). Threads
 * share the planes, so that each core keeps its own part of the transformed weights, which are
 * several times as large as the plain ones, in its cache from run to run. Large maps take several
 * rounds of the three phases: the planes of a round must stay in the second-level cache.
 *
 * Tiles lie on the map's own grid from (0, 0) on and side depends on the channels alone: the bits
 * of an output depend on its tile's patch of inputs, neither on the map's size nor on threads. N,
 * H, W: output; α = side + 2. */
#include "graph/steps.h"

#include <string.h>

#include "base/threads.h"

enum {
    MIN_CHANNELS = 16, /* below, and with few pairs, the transforms cost what products save */
    MIN_PAIRS = 512,
    MAX_WEIGHTS = 340000, /* floats of 36 planes, beyond which 16 planes are faster */
    ROUND_TILES = 32,
    PHASES = 3,
};

static int64_t tiles_x(const dd_conv *c) {
    return (c->ow + c->winograd - 1) / c->winograd;
}
static int64_t tiles_y(const dd_conv *c) {
    return (c->oh + c->winograd - 1) / c->winograd;
}
static int planes_of(const dd_conv *c) {
    return (c->winograd + 2) * (c->winograd + 2);
}

/* Floats of a plane: an odd number of cache lines, so that planes spread over the cache's sets. */
static int64_t plane_floats(int64_t tiles, int channels) {
    return ((tiles * channels + 15) / 16 | 1) * 16;
}

/* ---- weights ------------------------------------------------------------------------------- */

/* G of both sides: α rows of three. */
static const double transform_2[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
static const double transform_4[6][3] = {{1. / 4, 0, 0},
                                         {-1. / 6, -1. / 6, -1. / 6},
                                         {-1. / 6, 1. / 6, -1. / 6},
                                         {1. / 24, 1. / 12, 1. / 6},
                                         {1. / 24, -1. / 12, 1. / 6},
                                         {0, 0, 1}};

/* (G·g·Gᵀ)[i, j] of one 3×3 kernel, rounded once. */
static float transformed(const double (*g)[3], int i, int j, const float *kernel) {
    double sum = 0;
    for (int r = 0; r < 3; r++)
        for (int s = 0; s < 3; s++)
            sum += g[i][r] * g[j][s] * (double)kernel[r * 3 + s];
    return (float)sum;
}

size_t dd_winograd_floats(const dd_kernels_table *kernels, const dd_conv *c) {
    return (size_t)planes_of(c) * kernels->gemm_f32_packed(c->c_in, c->c_out);
}

void dd_winograd_pack(const dd_kernels_table *kernels, const dd_conv *c, const float *weight,
                      float *gathered, float *packed) {
    const double(*g)[3] = c->winograd == 2 ? transform_2 : transform_4;
    const int alpha = c->winograd + 2;
    const size_t plane = kernels->gemm_f32_packed(c->c_in, c->c_out);
    for (int p = 0; p < planes_of(c); p++, packed += plane) {
        float *to = gathered;
        for (int i = 0; i < c->c_in; i++)
            for (int o = 0; o < c->c_out; o++)
                *to++ =
                    transformed(g, p / alpha, p % alpha, weight + ((int64_t)o * c->c_in + i) * 9);
        kernels->gemm_f32_pack(gathered, c->c_out, 1, c->c_in, c->c_out, packed);
    }
}

/* ---- the phases ---------------------------------------------------------------------------- */

/* A round: rows [begin, end) of tiles, all images' counted through, and its planes. */
typedef struct round {
    int64_t begin, end, tiles;
    float *v, *m;
    int64_t v_plane, m_plane;
} round;

static round round_of(const dd_plan *plan, const dd_step *s, int64_t index) {
    const dd_conv *c = &plan->convs[s->conv];
    round r;
    dd_cut(c->n * tiles_y(c), s->n_phases / PHASES, index, &r.begin, &r.end);
    r.tiles = (r.end - r.begin) * tiles_x(c);
    r.v_plane = plane_floats(r.tiles, c->c_in);
    r.m_plane = plane_floats(r.tiles, c->c_out);
    r.v = plan->slots ? plan->slots + s->planes : NULL;
    r.m = plan->slots ? r.v + planes_of(c) * r.v_plane : NULL;
    return r;
}

/* Tiles `first`..`first + count - 1` of row `row` of tiles: their patches, padded, in scratch. */
static void load_patches(const dd_run *run, const dd_step *s, const dd_conv *c, int64_t row,
                         int64_t first, int64_t count, float *out) {
    const int64_t n = row / tiles_y(c), y0 = row % tiles_y(c) * c->winograd - c->pad_top;
    const int64_t width = count * c->winograd + 2;
    int64_t begin = first * c->winograd - c->pad_left, end = begin + width, left = 0;
    if (begin < 0) {
        left = -begin < width ? -begin : width;
        begin = 0;
    }
    end = end < c->w ? end : c->w;
    const int64_t inside = end > begin ? end - begin : 0, right = width - left - inside;
    for (int i = 0; i < c->winograd + 2; i++, out += width * c->c_in) {
        if (y0 + i < 0 || y0 + i >= c->h || inside == 0) {
            memset(out, 0, (size_t)(width * c->c_in) * sizeof(float));
            continue;
        }
        memset(out, 0, (size_t)(left * c->c_in) * sizeof(float));
        dd_load_pixels(run, s->x, n, y0 + i, begin, inside, out + left * c->c_in);
        memset(out + (left + inside) * c->c_in, 0, (size_t)(right * c->c_in) * sizeof(float));
    }
}

static void input_tiles(const dd_run *run, const dd_step *s, const dd_conv *c, const round *r,
                        int64_t tile, int64_t count, float *scratch) {
    load_patches(run, s, c, r->begin + tile / tiles_x(c), tile % tiles_x(c), count, scratch);
    dd_winograd_input w = {.side = c->winograd,
                           .x = scratch,
                           .pitch = c->c_in,
                           .row_pitch = (count * c->winograd + 2) * c->c_in,
                           .tiles = count,
                           .c = c->c_in,
                           .v = r->v + tile * c->c_in,
                           .v_pitch = c->c_in,
                           .plane = r->v_plane};
    run->plan->kernels->winograd_input_f32(&w);
}

static void output_tiles(const dd_run *run, const dd_step *s, const dd_conv *c, const round *r,
                         int64_t tile, int64_t count) {
    const int64_t row = r->begin + tile / tiles_x(c), n = row / tiles_y(c);
    const int64_t y = row % tiles_y(c) * c->winograd, x = tile % tiles_x(c) * c->winograd;
    const dd_pvalue *out = &run->plan->values[s->y];
    dd_winograd_output w = {.side = c->winograd,
                            .m = r->m + tile * c->c_out,
                            .m_pitch = c->c_out,
                            .plane = r->m_plane,
                            .tiles = count,
                            .c = c->c_out,
                            .bias = dd_conv_bias(run, c),
                            .act = s->residual >= 0 ? s->act_after : s->act,
                            .y = dd_row(run, s->y, n, y) + x * out->pitch,
                            .y_pitch = out->pitch,
                            .y_row = c->ow * out->pitch,
                            .width = c->ow - x,
                            .rows = (int)(c->oh - y < c->winograd ? c->oh - y : c->winograd)};
    if (s->residual >= 0) {
        w.residual_pitch = run->plan->values[s->residual].pitch;
        w.residual_row = c->ow * w.residual_pitch;
        w.residual = dd_row(run, s->residual, n, y) + x * w.residual_pitch;
    }
    run->plan->kernels->winograd_output_f32(&w);
}

static void multiply_plane(const dd_run *run, const dd_conv *c, const round *r, int64_t plane) {
    const float *a = r->v + plane * r->v_plane;
    const dd_kernels_table *kernels = run->plan->kernels;
    dd_gemm g = {.a = &a,
                 .lda = c->c_in,
                 .segments = 1,
                 .k = c->c_in,
                 .b = run->plan->packed + c->packed +
                      (size_t)plane * kernels->gemm_f32_packed(c->c_in, c->c_out),
                 .c = r->m + plane * r->m_plane,
                 .ldc = c->c_out,
                 .m = r->tiles,
                 .n = c->c_out,
                 .n_end = c->c_out};
    kernels->gemm_f32(&g);
}

static void winograd_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv];
    const round r = round_of(run->plan, s, phase / PHASES);
    if (phase % PHASES == 1) {
        multiply_plane(run, c, &r, unit);
        return;
    }
    int64_t tile, end;
    dd_cut(r.tiles, s->units(run->plan, s, phase, dd_threads()), unit, &tile, &end);
    while (tile < end) { /* the part of a row of tiles */
        int64_t left = tiles_x(c) - tile % tiles_x(c);
        int64_t count = end - tile < left ? end - tile : left;
        if (phase % PHASES == 0)
            input_tiles(run, s, c, &r, tile, count, dd_scratch(run, thread));
        else
            output_tiles(run, s, c, &r, tile, count);
        tile += count;
    }
}

static int64_t winograd_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    const dd_conv *c = &plan->convs[s->conv];
    if (phase % PHASES == 1)
        return planes_of(c);
    int64_t tiles = round_of(plan, s, phase / PHASES).tiles;
    int64_t units = threads == 1 ? 1 : 2 * (int64_t)threads;
    return tiles < units ? tiles : units;
}

/* ---- the match ----------------------------------------------------------------------------- */

/* Rounds of about ROUND_TILES tiles, as even as whole rows of tiles allow. */
static int64_t rounds_of(const dd_plan *plan, const dd_conv *c) {
    int64_t rows = c->n * tiles_y(c), at_once = ROUND_TILES / tiles_x(c);
    if (plan->options.strip_rows > 0)
        at_once = plan->options.strip_rows;
    at_once = at_once < 1 ? 1 : at_once;
    return (rows + at_once - 1) / at_once;
}

dd_status dd_match_winograd(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (plan->graph->training || n->op != &dd_op_conv || plan->conv_of[node] < 0)
        return DD_OK;
    dd_conv *c = &plan->convs[plan->conv_of[node]];
    if (c->k_h != 3 || c->k_w != 3 || c->stride != 1 || c->dilation != 1 || c->groups != 1 ||
        c->c_in < MIN_CHANNELS || c->c_out < MIN_CHANNELS || c->c_in * c->c_out < MIN_PAIRS)
        return DD_OK;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "winograd", &s));
    c->winograd = 36 * c->c_in * c->c_out <= MAX_WEIGHTS ? 4 : 2;
    c->packed_floats = dd_winograd_floats(plan->kernels, c);
    s->conv = plan->conv_of[node];
    s->run = winograd_run;
    s->units = winograd_units;
    s->n_phases = (int)(PHASES * rounds_of(plan, c));
    s->x = n->in[0];
    s->y = n->out[0];
    dd_step_node(plan, s, node);
    dd_step_reads(plan, s, s->x);
    dd_conv_epilogue(plan, s, c);
    dd_step_writes(s, s->y);
    dd_conv_use(plan, c);
    s->scratch =
        (size_t)((c->winograd + 2) * (tiles_x(c) * c->winograd + 2) * c->c_in) * sizeof(float);
    for (int i = 0; i < s->n_phases / PHASES; i++) {
        round r = round_of(plan, s, i);
        size_t floats = (size_t)(planes_of(c) * (r.v_plane + r.m_plane));
        s->planes_floats = floats > s->planes_floats ? floats : s->planes_floats;
    }
    *matched = true;
    return DD_OK;
}

void dd_winograd_places(dd_plan *plan) {
    size_t end = 0;
    for (size_t i = 0; i < plan->n_steps; i++) {
        dd_step *s = &plan->steps[i];
        s->planes = i > 0 && s->wave == plan->steps[i - 1].wave ? end : 0;
        end = s->planes + s->planes_floats;
        plan->slots_size = end > plan->slots_size ? end : plan->slots_size;
    }
}
