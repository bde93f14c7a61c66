/* The Winograd step: a 3×3 convolution of stride 1 with many channels, or, in training, the
 * gradient of its input, which is one with the weights turned round.
 *
 * Phases, a barrier after each: the input's tiles are transformed (load: any source), α² matrix
 * products, one a plane, and the transform back (store: bias, residual, activation). Threads
 * share the planes, so that each core keeps its own part of the transformed weights, which are
 * several times as large as the plain ones, in its cache from run to run. Large maps take several
 * rounds of the three phases: the planes of a round must stay in the second-level cache.
 *
 * Tiles lie on the map's own grid from (0, 0) on and side depends on the channels alone: the bits
 * of an output depend on its tile's patch of inputs, neither on the map's size nor on threads. Sums
 * for batch norms go by rows of tiles to slots, whatever the rounds. N, H, W: output; α = side + 2.
 */
#include "graph/winograd.h"

#include <string.h>

#include "base/memory.h"
#include "base/threads.h"

enum {
    MIN_CHANNELS = 16, /* below, and with few pairs, the transforms cost what products save */
    MIN_PAIRS = 512,
    MAX_WEIGHTS = 340000, /* floats of 36 planes, beyond which 16 planes are faster */
    ROUND_TILES = 32,
    PHASES = 3,
};

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

float dd_winograd_factor(const dd_conv *c, int plane, int tap) {
    const double(*g)[3] = c->winograd == 2 ? transform_2 : transform_4;
    const int alpha = c->winograd + 2;
    return (float)(g[plane / alpha][tap / 3] * g[plane % alpha][tap % 3]);
}

size_t dd_winograd_floats(const dd_kernels_table *kernels, const dd_conv *c) {
    return (size_t)dd_winograd_planes(c) * kernels->gemm_f32_packed(c->c_in, c->c_out);
}

/* Taps are packed as the products want them and then transformed, all pairs of channels at once:
 * G·g·Gᵀ is a product of matrices with the nine taps' numbers for its columns. */
void dd_winograd_pack(const dd_kernels_table *kernels, const dd_conv *c, const float *weight,
                      float *gathered, float *packed) {
    const int planes = dd_winograd_planes(c);
    const int64_t in_step = c->turned ? (int64_t)9 * c->c_out : 9;
    const int64_t out_step = c->turned ? 9 : (int64_t)9 * c->c_in;
    const size_t plane = kernels->gemm_f32_packed(c->c_in, c->c_out);
    float factors[9 * DD_WINOGRAD_PLANES];
    for (int tap = 0; tap < 9; tap++) {
        kernels->gemm_f32_pack(weight + (c->turned ? 8 - tap : tap), in_step, out_step, c->c_in,
                               c->c_out, gathered + (size_t)tap * plane);
        for (int p = 0; p < planes; p++)
            factors[tap * planes + p] = dd_winograd_factor(c, p, tap);
    }
    memset(packed, 0, (size_t)planes * plane * sizeof(float));
    dd_gemm_tn all = {.a = factors,
                      .lda = planes,
                      .b = gathered,
                      .ldb = (int64_t)plane,
                      .c = packed,
                      .ldc = (int64_t)plane,
                      .m = 9,
                      .k = planes,
                      .n = (int)plane};
    kernels->gemm_tn_f32(&all);
}

/* ---- the phases ---------------------------------------------------------------------------- */

dd_winograd_round dd_winograd_round_of(const dd_plan *plan, const dd_step *s, int64_t index,
                                       int64_t rounds) {
    const dd_conv *c = &plan->convs[s->conv];
    dd_winograd_round r;
    dd_cut(c->n * dd_winograd_tiles_y(c), rounds, index, &r.begin, &r.end);
    r.tiles = (r.end - r.begin) * dd_winograd_tiles_x(c);
    r.v_plane = plane_floats(r.tiles, c->c_in);
    r.m_plane = plane_floats(r.tiles, c->c_out);
    r.v = plan->slots ? plan->slots + s->planes : NULL;
    r.m = plan->slots ? r.v + dd_winograd_planes(c) * r.v_plane : NULL;
    return r;
}

void dd_winograd_load(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t rows,
                      int64_t width, float *out) {
    const dd_type *type = &run->plan->values[value].type;
    const int64_t h = type->dims[1], w = type->dims[2], c = type->dims[3];
    int64_t begin = x, end = x + width, left = 0;
    if (begin < 0) {
        left = -begin < width ? -begin : width;
        begin = 0;
    }
    end = end < w ? end : w;
    const int64_t inside = end > begin ? end - begin : 0, right = width - left - inside;
    for (int64_t i = 0; i < rows; i++, out += width * c) {
        if (y + i < 0 || y + i >= h || inside == 0) {
            memset(out, 0, (size_t)(width * c) * sizeof(float));
            continue;
        }
        memset(out, 0, (size_t)(left * c) * sizeof(float));
        dd_load_pixels(run, value, n, y + i, begin, inside, out + left * c);
        memset(out + (left + inside) * c, 0, (size_t)(right * c) * sizeof(float));
    }
}

void dd_winograd_patches(const dd_run *run, int value, const dd_conv *c, const dd_winograd_round *r,
                         int64_t tile, int64_t count, float *scratch) {
    const int64_t row = r->begin + tile / dd_winograd_tiles_x(c), n = row / dd_winograd_tiles_y(c);
    const int64_t y = row % dd_winograd_tiles_y(c) * c->winograd - c->pad_top;
    const int64_t x = tile % dd_winograd_tiles_x(c) * c->winograd - c->pad_left;
    const int64_t width = count * c->winograd + 2;
    dd_winograd_load(run, value, n, y, x, c->winograd + 2, width, scratch);
    dd_winograd_input w = {.side = c->winograd,
                           .x = scratch,
                           .pitch = c->c_in,
                           .row_pitch = width * c->c_in,
                           .tiles = count,
                           .c = c->c_in,
                           .v = r->v + tile * c->c_in,
                           .v_pitch = c->c_in,
                           .plane = r->v_plane};
    run->plan->kernels->winograd_input_f32(&w);
}

/* Parts that the rows of tiles are cut into where sums are made: a slot each. */
static int64_t slots_of(const dd_conv *c) {
    return c->n * c->oh < DD_SLOTS ? c->n * c->oh : DD_SLOTS;
}

static bool makes_sums(const dd_step *s) {
    return s->norm >= 0 || s->reduction.norm >= 0;
}

/* Sums over output rows that lie at w->y and begin with pixel (y, x) of image n. */
static void add_sums(const dd_run *run, const dd_step *s, const dd_winograd_output *w, int64_t n,
                     int64_t y, int64_t x, int64_t width, int64_t slot) {
    for (int i = 0; s->reduction.norm >= 0 && i < w->rows; i++)
        dd_norm_gradient_pixels(run, &s->reduction, w->y + i * w->y_row, w->y_pitch, n, y + i, x,
                                width, slot);
    if (s->norm < 0)
        return;
    const dd_norm *norm = &run->plan->norms[s->norm];
    double *sums = run->plan->sums + norm->sums + (size_t)slot * 2 * (size_t)norm->c;
    dd_channel_sums sum = {.x = w->y,
                           .pitch = w->y_pitch,
                           .row_pitch = w->y_row,
                           .width = width,
                           .rows = w->rows,
                           .c = norm->c,
                           .shift = dd_store_data(run->binding->store, norm->running_mean),
                           .sum = sums,
                           .squares = sums + norm->c};
    run->plan->kernels->channel_sums_f32(&sum);
}

static void clear_sums(const dd_run *run, const dd_step *s) {
    const dd_norm *norm = s->norm >= 0 ? &run->plan->norms[s->norm] : NULL;
    for (int64_t slot = 0; slot < slots_of(&run->plan->convs[s->conv]); slot++) {
        if (norm)
            memset(run->plan->sums + norm->sums + (size_t)slot * 2 * (size_t)norm->c, 0,
                   2 * (size_t)norm->c * sizeof(double));
        if (s->reduction.norm >= 0)
            dd_norm_gradient_begin(run, &s->reduction, slot);
    }
}

/* Back from the planes; bfloat16 by way of scratch. */
static void output_tiles(const dd_run *run, const dd_step *s, const dd_conv *c,
                         const dd_winograd_round *r, int64_t tile, int64_t count, int64_t slot,
                         float *scratch) {
    const int64_t row = r->begin + tile / dd_winograd_tiles_x(c), n = row / dd_winograd_tiles_y(c);
    const int64_t y = row % dd_winograd_tiles_y(c) * c->winograd,
                  x = tile % dd_winograd_tiles_x(c) * c->winograd;
    const dd_pvalue *out = &run->plan->values[s->y];
    const bool half = dd_is_half(run->plan, s->y);
    int64_t width = c->ow - x;
    width = width < count * c->winograd ? width : count * c->winograd;
    dd_winograd_output w = {.side = c->winograd,
                            .m = r->m + tile * c->c_out,
                            .m_pitch = c->c_out,
                            .plane = r->m_plane,
                            .tiles = count,
                            .c = c->c_out,
                            .bias = dd_conv_bias(run, c),
                            .act = s->residual >= 0 ? s->act_after : s->act,
                            .y = half ? scratch : dd_row(run, s->y, n, y) + x * out->pitch,
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
    if (makes_sums(s))
        add_sums(run, s, &w, n, y, x, width, slot);
    for (int i = 0; half && i < w.rows; i++)
        dd_store_pixels(run, s->y, n, y + i, x, width, w.y + i * w.y_row, w.y_pitch);
}

/* Whole rows of tiles: what of slot `slot` lies in the round. */
static void output_slot(const dd_run *run, const dd_step *s, const dd_conv *c,
                        const dd_winograd_round *r, int64_t slot, float *scratch) {
    int64_t row, end;
    dd_cut(c->n * dd_winograd_tiles_y(c), slots_of(c), slot, &row, &end);
    row = row > r->begin ? row : r->begin;
    end = end < r->end ? end : r->end;
    for (; row < end; row++)
        output_tiles(run, s, c, r, (row - r->begin) * dd_winograd_tiles_x(c),
                     dd_winograd_tiles_x(c), slot, scratch);
}

static void multiply_plane(const dd_run *run, const dd_conv *c, const dd_winograd_round *r,
                           int64_t plane) {
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
    if (phase == s->n_phases - 1 && makes_sums(s)) {
        if (s->norm >= 0)
            dd_norm_finish(run, s->norm);
        if (s->reduction.norm >= 0)
            dd_norm_gradient_finish(run, &s->reduction, slots_of(c));
        return;
    }
    const dd_winograd_round r =
        dd_winograd_round_of(run->plan, s, phase / PHASES, s->n_phases / PHASES);
    if (phase == 0 && unit == 0 && makes_sums(s))
        clear_sums(run, s);
    if (phase % PHASES == 2 && makes_sums(s)) {
        output_slot(run, s, c, &r, unit, dd_scratch(run, thread));
        return;
    }
    if (phase % PHASES == 1) {
        multiply_plane(run, c, &r, unit);
        return;
    }
    int64_t tile, end;
    dd_cut(r.tiles, s->units(run->plan, s, phase, dd_threads()), unit, &tile, &end);
    while (tile < end) { /* the part of a row of tiles */
        int64_t left = dd_winograd_tiles_x(c) - tile % dd_winograd_tiles_x(c);
        int64_t count = end - tile < left ? end - tile : left;
        if (phase % PHASES == 0)
            dd_winograd_patches(run, s->x, c, &r, tile, count, dd_scratch(run, thread));
        else
            output_tiles(run, s, c, &r, tile, count, 0, dd_scratch(run, thread));
        tile += count;
    }
}

static int64_t winograd_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    const dd_conv *c = &plan->convs[s->conv];
    if (makes_sums(s) && (phase == s->n_phases - 1 || phase % PHASES == 2))
        return phase == s->n_phases - 1 ? 1 : slots_of(c);
    if (phase % PHASES == 1)
        return dd_winograd_planes(c);
    int64_t tiles = dd_winograd_round_of(plan, s, phase / PHASES, s->n_phases / PHASES).tiles;
    int64_t units = threads == 1 ? 1 : 2 * (int64_t)threads;
    return tiles < units ? tiles : units;
}

/* ---- the match ----------------------------------------------------------------------------- */

/* Rounds of about ROUND_TILES tiles, as even as whole rows of tiles allow. */
static int64_t rounds_of(const dd_plan *plan, const dd_conv *c) {
    int64_t rows = c->n * dd_winograd_tiles_y(c), at_once = ROUND_TILES / dd_winograd_tiles_x(c);
    if (plan->options.strip_rows > 0)
        at_once = plan->options.strip_rows;
    at_once = at_once < 1 ? 1 : at_once;
    return (rows + at_once - 1) / at_once;
}

int dd_winograd_side(const dd_conv *c) {
    return DD_WINOGRAD_PLANES * c->c_in * c->c_out <= MAX_WEIGHTS ? 4 : 2;
}

bool dd_winograd_pays(const dd_conv *c) {
    return c->k_h == 3 && c->k_w == 3 && c->stride == 1 && c->dilation == 1 && c->groups == 1 &&
           c->c_in >= MIN_CHANNELS && c->c_out >= MIN_CHANNELS && c->c_in * c->c_out >= MIN_PAIRS;
}

/* The convolution from the gradient of y to that of x. */
static dd_conv turned(const dd_conv *c) {
    dd_conv t = *c;
    t.c_in = c->c_out;
    t.c_out = c->c_in;
    t.h = c->oh;
    t.w = c->ow;
    t.oh = c->h;
    t.ow = c->w;
    t.pad_top = 2 - c->pad_top;
    t.pad_left = 2 - c->pad_left;
    t.turned = true;
    t.bias = -1;
    return t;
}

dd_status dd_winograd_record(dd_plan *plan, dd_conv c, int *conv) {
    DD_TRY(dd_reserve(&plan->convs, &plan->convs_capacity, plan->n_convs + 1, sizeof c));
    c.uses_dx = c.uses_forward = false;
    plan->convs[plan->n_convs] = c;
    *conv = (int)plan->n_convs++;
    return DD_OK;
}

/* What the step's store does beyond the convolution. */
static void take_forward(dd_plan *plan, dd_step *s, const dd_conv *c) {
    dd_conv_epilogue(plan, s, c);
    if (plan->graph->training)
        dd_conv_take_sums(plan, s);
}

static void take_backward(dd_plan *plan, dd_step *s, const dd_conv *c) {
    s->dx = s->y;
    dd_conv_take_residual(plan, s, c);
    dd_conv_take_reduction(plan, s);
    s->y = s->dx;
    s->residual = s->dx_residual;
    s->dx = s->dx_residual = -1;
}

static void choose_rounds(dd_plan *plan, dd_step *s, const dd_conv *c) {
    s->n_phases = (int)(PHASES * rounds_of(plan, c));
    for (int i = 0; i < s->n_phases / PHASES; i++) {
        dd_winograd_round r = dd_winograd_round_of(plan, s, i, s->n_phases / PHASES);
        size_t floats = (size_t)(dd_winograd_planes(c) * (r.v_plane + r.m_plane));
        s->planes_floats = floats > s->planes_floats ? floats : s->planes_floats;
    }
    s->n_phases += makes_sums(s);
    size_t in = (size_t)((c->winograd + 2) * (dd_winograd_tiles_x(c) * c->winograd + 2) * c->c_in);
    size_t out = (size_t)(c->winograd * c->ow * plan->values[s->y].pitch);
    s->scratch = (in > out ? in : out) * sizeof(float);
}

dd_status dd_match_winograd(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    bool dx = n->op == &dd_op_conv_dx;
    if (n->op == &dd_op_conv_dw)
        return dd_winograd_weights_match(plan, node, matched);
    if ((n->op != &dd_op_conv && !dx) || n->backward || plan->conv_of[node] < 0)
        return DD_OK;
    int conv = plan->conv_of[node];
    if (!dd_winograd_pays(&plan->convs[conv]) ||
        (dx && (plan->convs[conv].pad_top > 2 || plan->convs[conv].pad_left > 2)))
        return DD_OK;
    if (dx)
        DD_TRY(dd_winograd_record(plan, turned(&plan->convs[conv]), &conv));
    dd_conv *c = &plan->convs[conv];
    dd_step *s;
    DD_TRY(dd_step_new(plan, "winograd", &s));
    c->winograd = dd_winograd_side(c);
    c->packed_floats = dd_winograd_floats(plan->kernels, c);
    s->conv = conv;
    s->run = winograd_run;
    s->units = winograd_units;
    s->x = n->in[0];
    s->y = n->out[0];
    dd_step_node(plan, s, node);
    dd_step_reads(plan, s, s->x);
    (dx ? take_backward : take_forward)(plan, s, c);
    dd_step_writes(s, s->y);
    dd_conv_use(plan, c);
    s->halves = true;
    choose_rounds(plan, s, c);
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
