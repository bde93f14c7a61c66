/* Convolutions of training by pieces of pixels that stay in the first-level cache: load, compute,
 * store and sums of a piece follow each other. For 1×1 convolutions, forward and backward, and for
 * the depthwise forward, whose load keeps a ring of the rows that its taps meet: every row is
 * formed once a unit. Others go by strips of rows (step_conv.c, step_conv_backward.c), where what
 * counts is arithmetic. Letters as in step_conv.c. */
#include "graph/steps.h"

#include <string.h>

enum { PIECE_FLOATS = 4096, LEAST_PIXELS = 32, BLOCK_PIXELS = 16 };

/* Pixels of a piece that keeps `floats` of each in cache; a multiple of eight. */
static int64_t piece_of(int64_t floats) {
    int64_t pixels = PIECE_FLOATS / floats / 8 * 8;
    return pixels < LEAST_PIXELS ? LEAST_PIXELS : pixels;
}

/* Pixels from (n, y, x) on, read where they lie or formed in `scratch`. */
static const float *piece_ready(const dd_run *run, int value, int64_t n, int64_t y, int64_t x,
                                int64_t pixels, float *scratch, int64_t *pitch) {
    const dd_pvalue *v = &run->plan->values[value];
    *pitch = v->pitch;
    if (dd_is_floats(run->plan, value))
        return dd_pixels(run, value, n, y, x);
    *pitch = dd_type_last(&v->type);
    dd_load_pixels(run, value, n, y, x, pixels, scratch);
    return scratch;
}

/* ---- 1×1, forward -------------------------------------------------------------------------- */

static void add_sums(const dd_run *run, const dd_step *s, const float *y, int64_t pitch,
                     int64_t pixels, int64_t slot) {
    const dd_norm *norm = &run->plan->norms[s->norm];
    double *sums = run->plan->sums + norm->sums + (size_t)slot * 2 * (size_t)norm->c;
    dd_channel_sums sum = {.x = y,
                           .pitch = pitch,
                           .width = pixels,
                           .rows = 1,
                           .c = norm->c,
                           .shift = dd_store_data(run->binding->store, norm->running_mean),
                           .sum = sums,
                           .squares = sums + norm->c};
    run->plan->kernels->channel_sums_f32(&sum);
}

static void pointwise_piece(const dd_run *run, const dd_step *s, const dd_conv *c, int64_t n,
                            int64_t y, int64_t x, int64_t pixels, int64_t unit, float *scratch) {
    dd_gemm g = {.segments = 1,
                 .k = c->c_in,
                 .b = run->plan->packed + c->packed,
                 .m = pixels,
                 .n = c->c_out,
                 .bias = dd_conv_bias(run, c),
                 .act = s->residual >= 0 ? s->act_after : s->act,
                 .n_end = c->c_out};
    const float *a = piece_ready(run, s->x, n, y, x, pixels, scratch, &g.lda);
    scratch += a == scratch ? (pixels * c->c_in + 15) / 16 * 16 : 0;
    g.a = &a;
    g.c = dd_piece_begin(run, s->y, n, y, x, scratch, &g.ldc);
    dd_ahead ahead = {0};
    dd_ahead_add(run, s->x, n, y, x + pixels, pixels, &ahead);
    dd_ahead_some(&ahead);
    if (s->residual >= 0) {
        g.ldr = run->plan->values[s->residual].pitch;
        g.residual = dd_row(run, s->residual, n, y) + x * g.ldr;
    }
    run->plan->kernels->gemm_f32(&g);
    dd_ahead_some(&ahead);
    if (s->norm >= 0)
        add_sums(run, s, g.c, g.ldc, pixels, unit);
    dd_ahead_some(&ahead);
    dd_piece_end(run, s->y, n, y, x, pixels, g.c);
}

/* ---- depthwise, forward -------------------------------------------------------------------- */

/* An odd number of cache lines: a block of pixels spreads over all sets of the first-level cache.
 */
static int64_t ring_pitch(const dd_conv *c) {
    return ((c->c_in + 15) / 16 | 1) * 16;
}

static int64_t ring_width(const dd_conv *c) {
    int64_t reach = (c->ow - 1) * c->stride + c->k_w, least = c->pad_left + c->w;
    return reach > least ? reach : least;
}

static int64_t ring_floats(const dd_conv *c) {
    return (c->k_h + 1) * ring_width(c) * ring_pitch(c);
}

typedef struct ring {
    int64_t n, loaded; /* rows of the map below `loaded` are there, as far as they are needed */
    int64_t pitch, row_floats;
    float *rows; /* k_h of them, then one of zeros */
    float *y;    /* room for a row of the output */
    dd_expanded expanded;
} ring;

static const float *ring_row(const dd_conv *c, const ring *t, int64_t y) {
    return t->rows + (y < 0 || y >= c->h ? c->k_h : y % c->k_h) * t->row_floats;
}

/* Some pixels at a time, while the next rows are fetched. */
static void depthwise_by_blocks(const dd_run *run, dd_depthwise d, dd_ahead *ahead) {
    const float *taps[64];
    const float *const *rows = d.rows;
    float *y = d.y;
    const float *residual = d.residual;
    int64_t width = d.width;
    d.rows = taps;
    for (int64_t x = 0; x < width; x += BLOCK_PIXELS) {
        d.width = width - x < BLOCK_PIXELS ? width - x : BLOCK_PIXELS;
        for (int r = 0; r < d.k; r++)
            taps[r] = rows[r] + x * d.stride * d.pitch;
        d.y = y + x * d.y_pitch;
        d.residual = residual ? residual + x * d.residual_pitch : NULL;
        dd_ahead_some(ahead);
        run->plan->kernels->depthwise_f32(&d);
    }
}

/* Row y of the input to its place. */
static void load_row(const dd_run *run, const dd_step *s, const dd_conv *c, ring *t, int64_t y) {
    float *to = t->rows + y % c->k_h * t->row_floats + c->pad_left * t->pitch;
    if (s->expansion.conv >= 0)
        dd_expand_pixels(run, s, t->n, y, 0, c->w, s->expansion.act, t->expanded.narrow, to,
                         t->pitch);
    else
        dd_load_pixels_at(run, s->x, t->n, y, 0, c->w, to, t->pitch);
}

static void depthwise_row(const dd_run *run, const dd_step *s, const dd_conv *c, ring *t, int64_t y,
                          int64_t unit) {
    const float *taps[64];
    int64_t first = y * c->stride - c->pad_top, end = first + c->k_h;
    first = first < 0 ? 0 : first;
    end = end < c->h ? end : c->h;
    t->loaded = t->loaded < first ? first : t->loaded;
    for (; t->loaded < end; t->loaded++)
        load_row(run, s, c, t, t->loaded);
    for (int r = 0; r < c->k_h; r++)
        taps[r] = ring_row(c, t, y * c->stride - c->pad_top + r);
    dd_depthwise d = {.rows = taps,
                      .pitch = t->pitch,
                      .k = c->k_h,
                      .stride = c->stride,
                      .c = c->c_in,
                      .width = c->ow,
                      .w = run->plan->packed + c->packed,
                      .wpitch = dd_depthwise_pitch(c),
                      .bias = dd_conv_bias(run, c),
                      .act = s->act};
    d.y = dd_piece_begin(run, s->y, t->n, y, 0, t->y, &d.y_pitch);
    if (s->residual >= 0) {
        d.residual = dd_row(run, s->residual, t->n, y);
        d.residual_pitch = run->plan->values[s->residual].pitch;
    }
    dd_ahead ahead = {0};
    dd_ahead_add(run, s->x, t->n, t->loaded, 0, c->w * c->stride, &ahead);
    depthwise_by_blocks(run, d, &ahead);
    if (s->norm >= 0)
        add_sums(run, s, d.y, d.y_pitch, c->ow, unit);
    dd_piece_end(run, s->y, t->n, y, 0, c->ow, d.y);
}

/* ---- the forward's units ------------------------------------------------------------------- */

bool dd_conv_by_pieces(const dd_conv *c) {
    return c->depthwise || dd_conv_pointwise(c);
}

size_t dd_conv_pieces_scratch(const dd_plan *plan, const dd_step *s, const dd_conv *c) {
    int64_t floats, piece = piece_of(c->c_in + c->c_out);
    if (c->depthwise) {
        dd_expanded expanded;
        floats = ring_floats(c) + dd_piece_floats(plan, s->y, c->ow);
        if (s->expansion.conv >= 0)
            floats += dd_expand_place(plan, s, c->w, NULL, &expanded);
    } else {
        floats = dd_load_floats(plan, s->x, piece) + dd_piece_floats(plan, s->y, piece);
    }
    return (size_t)floats * sizeof(float);
}

/* Output rows [row, end) of all images together. */
void dd_conv_pieces(const dd_run *run, const dd_step *s, int64_t row, int64_t end, int64_t unit,
                    float *scratch) {
    const dd_conv *c = &run->plan->convs[s->conv];
    if (c->depthwise) {
        ring t = {.n = -1, .pitch = ring_pitch(c), .rows = scratch, .y = scratch + ring_floats(c)};
        t.row_floats = ring_width(c) * t.pitch;
        memset(scratch, 0, (size_t)ring_floats(c) * sizeof(float));
        if (s->expansion.conv >= 0)
            (void)dd_expand_place(run->plan, s, c->w, t.y + dd_piece_floats(run->plan, s->y, c->ow),
                                  &t.expanded);
        for (; row < end; row++) {
            if (row / c->oh != t.n) {
                t.n = row / c->oh;
                t.loaded = 0;
            }
            depthwise_row(run, s, c, &t, row % c->oh, unit);
        }
        dd_pieces_done(run, s->y);
        return;
    }
    int64_t piece = piece_of(c->c_in + c->c_out);
    while (row < end) {
        int64_t y = row % c->oh, rows = end - row < c->oh - y ? end - row : c->oh - y;
        for (int64_t x = 0; x < rows * c->ow; x += piece)
            pointwise_piece(run, s, c, row / c->oh, y, x,
                            rows * c->ow - x < piece ? rows * c->ow - x : piece, unit, scratch);
        row += rows;
    }
    dd_pieces_done(run, s->y);
}

/* ---- 1×1, backward ------------------------------------------------------------------------- */

static int64_t backward_piece(const dd_conv *c) {
    return piece_of(2 * c->c_in + c->c_out);
}

size_t dd_pointwise_backward_scratch(const dd_plan *plan, const dd_step *s, const dd_conv *c) {
    int64_t piece = backward_piece(c), floats = dd_load_floats(plan, s->dy, piece);
    floats += s->x < 0 ? 0 : dd_load_floats(plan, s->x, piece);
    floats += s->dx < 0 ? 0 : dd_piece_floats(plan, s->dx, piece);
    return (size_t)floats * sizeof(float);
}

/* dx of a piece, with the sums for the batch norm before it. */
static void dx_piece(const dd_run *run, const dd_step *s, const dd_conv *c, int64_t n, int64_t y,
                     int64_t x, dd_gemm g, int64_t unit, float *scratch, dd_ahead *ahead) {
    g.segments = 1;
    g.k = c->c_out;
    g.b = run->plan->packed + c->packed_dx;
    g.c = dd_piece_begin(run, s->dx, n, y, x, scratch, &g.ldc);
    g.n = g.n_end = c->c_in;
    if (s->dx_residual >= 0) {
        g.ldr = run->plan->values[s->dx_residual].pitch;
        g.residual = dd_row(run, s->dx_residual, n, y) + x * g.ldr;
    }
    run->plan->kernels->gemm_f32(&g);
    dd_ahead_some(ahead);
    if (s->reduction.norm >= 0)
        dd_norm_gradient_pixels(run, &s->reduction, g.c, g.ldc, n, y, x, g.m, unit);
    dd_ahead_some(ahead);
    dd_piece_end(run, s->dx, n, y, x, g.m, g.c);
}

/* What the next piece will read, and the lines that it will write. */
static void ahead_next(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                       int64_t pixels, dd_ahead *ahead) {
    dd_ahead_add(run, s->dy, n, y, x, pixels, ahead);
    dd_ahead_add(run, s->x, n, y, x, pixels, ahead);
    if (s->dx_residual >= 0)
        dd_ahead_add(run, s->dx_residual, n, y, x, pixels, ahead);
    if (s->reduction.norm >= 0)
        dd_ahead_add(run, run->plan->norms[s->reduction.norm].x, n, y, x, pixels, ahead);
    if (s->dx >= 0 && !dd_is_streamed(run->plan, s->dx))
        dd_ahead_add(run, s->dx, n, y, x, pixels, ahead);
}

/* Pixels x.. from row y of image n on: they may run over the ends of rows. */
static void backward_pixels(const dd_run *run, const dd_step *s, const dd_conv *c, int64_t n,
                            int64_t y, int64_t x, int64_t pixels, int64_t unit, float *scratch) {
    int64_t dy_pitch, x_pitch;
    dd_ahead ahead = {0};
    ahead_next(run, s, n, y, x + pixels, pixels, &ahead);
    const float *dy = piece_ready(run, s->dy, n, y, x, pixels, scratch, &dy_pitch);
    if (dy == scratch)
        scratch += backward_piece(c) * c->c_out;
    dd_ahead_some(&ahead);
    if (s->dx >= 0)
        dx_piece(run, s, c, n, y, x, (dd_gemm){.a = &dy, .lda = dy_pitch, .m = pixels}, unit,
                 scratch, &ahead);
    if (s->dx >= 0)
        scratch += dd_piece_floats(run->plan, s->dx, backward_piece(c));
    if (s->dw >= 0 || s->dw_entry >= 0) {
        const float *a = piece_ready(run, s->x, n, y, x, pixels, scratch, &x_pitch);
        dd_gemm_tn g = {.a = a,
                        .lda = x_pitch,
                        .b = dy,
                        .ldb = dy_pitch,
                        .c = run->plan->slots + unit * c->c_in * c->c_out,
                        .ldc = c->c_out,
                        .m = pixels,
                        .k = c->c_in,
                        .n = c->c_out,
                        .ahead = &ahead};
        run->plan->kernels->gemm_tn_f32(&g);
    }
    if (s->db >= 0 || s->db_entry >= 0) {
        dd_channel_sums sum = {.x = dy,
                               .pitch = dy_pitch,
                               .width = pixels,
                               .rows = 1,
                               .c = c->c_out,
                               .sum =
                                   run->plan->sums + s->db_sums + (size_t)unit * (size_t)c->c_out};
        run->plan->kernels->channel_sums_f32(&sum);
    }
}

void dd_pointwise_backward_unit(const dd_run *run, const dd_step *s, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv];
    int64_t row, end, piece = backward_piece(c);
    dd_cut(c->n * c->h, s->n_slots, unit, &row, &end);
    while (row < end) {
        int64_t y = row % c->h, rows = end - row < c->h - y ? end - row : c->h - y;
        for (int64_t x = 0; x < rows * c->w; x += piece)
            backward_pixels(run, s, c, row / c->h, y, x,
                            rows * c->w - x < piece ? rows * c->w - x : piece, unit,
                            dd_scratch(run, thread));
        row += rows;
    }
    dd_pieces_done(run, s->dx);
}
