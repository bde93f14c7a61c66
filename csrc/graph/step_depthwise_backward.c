/* The backward of a depthwise convolution: both gradients in one pass over the rows of its input.
 *
 * A unit is a slot's rows of the input, from top to bottom. A ring keeps the k rows of dy that the
 * row at hand meets, so each is formed from its pending batch-norm gradient once a slot. The row is
 * cut into pieces of a few kilobytes: the input's load (pending batch norm and activation), the
 * kernel, and the sums for the batch norm before it follow each other in the first-level cache.
 * Where the input is an expansion that nobody stored (step_expand.c), a piece of it is computed
 * again in place of the load, and its gradient goes on to the narrow map in place of the store.
 * Letters as in step_conv.c. */
#include "graph/steps.h"

#include <string.h>

enum {
    PIECE_FLOATS = 1536,    /* of the row: x, its activation and dx share the first-level cache */
    EXPANDED_FLOATS = 4608, /* more of an expansion: what a product's call costs counts as well */
    PART_ROWS = 8,          /* rows whose weight gradient is summed before it goes to the slot */
};

/* The pass over one image: rows of dy below `loaded` are in the ring, as far as they are needed. */
typedef struct pass {
    int64_t n, loaded;
    float *ring, *x, *dx, *part, *spare;
    dd_expanded expanded;
} pass;

static int64_t taps_floats(const dd_conv *c) {
    return c->k_h * c->k_w * dd_depthwise_pitch(c);
}

static bool expands(const dd_step *s) {
    return s->expansion.conv >= 0;
}

static int64_t piece_pixels(const dd_step *s, const dd_conv *c) {
    int64_t pixels = (expands(s) ? EXPANDED_FLOATS : PIECE_FLOATS) / c->c_in / 8 * 8;
    return pixels < 8 ? 8 : pixels;
}

/* Rows of dy that input row y meets: [*first, *end). */
static void dy_span(const dd_conv *c, int64_t y, int64_t *first, int64_t *end) {
    int64_t low = y + c->pad_top - (c->k_h - 1);
    *first = low <= 0 ? 0 : (low + c->stride - 1) / c->stride;
    *end = (y + c->pad_top) / c->stride + 1;
    *end = *end < c->oh ? *end : c->oh;
}

/* Makes the rows of dy that row y meets ready; rows[r] is tap row r's or NULL. */
static void dy_ready(const dd_run *run, const dd_step *s, const dd_conv *c, pass *t, int64_t y,
                     const float **rows) {
    bool stored = dd_is_floats(run->plan, s->dy);
    int64_t first, end, floats = c->ow * c->c_in;
    dy_span(c, y, &first, &end);
    t->loaded = t->loaded < first ? first : t->loaded;
    for (; t->loaded < end && !stored; t->loaded++)
        dd_load_pixels(run, s->dy, t->n, t->loaded, 0, c->ow,
                       t->ring + t->loaded % c->k_h * floats);
    for (int r = 0; r < c->k_h; r++) {
        int64_t at = y + c->pad_top - r, row = at / c->stride;
        bool meets = at >= 0 && at % c->stride == 0 && row < c->oh;
        rows[r] = !meets   ? NULL
                  : stored ? dd_row(run, s->dy, t->n, row)
                           : t->ring + row % c->k_h * floats;
    }
}

static bool wants_dw(const dd_step *s) {
    return s->dw >= 0 || s->dw_entry >= 0;
}

static bool wants_db(const dd_step *s) {
    return s->db >= 0 || s->db_entry >= 0;
}

/* Pixels x.. of the input, where they lie or loaded. */
static const float *x_ready(const dd_run *run, const dd_step *s, pass *t, int64_t y, int64_t x,
                            int64_t pixels, int64_t *pitch) {
    if (expands(s)) {
        *pitch = t->expanded.pitch;
        return dd_expand_again(run, s, t->n, y, x, pixels, &t->expanded);
    }
    if (s->x < 0) { /* frozen weights: any numbers do */
        *pitch = dd_type_last(&run->plan->values[s->dx].type);
        return t->x;
    }
    const dd_pvalue *v = &run->plan->values[s->x];
    if (dd_is_floats(run->plan, s->x)) {
        *pitch = v->pitch;
        return dd_pixels(run, s->x, t->n, y, x);
    }
    *pitch = dd_type_last(&v->type);
    dd_load_pixels(run, s->x, t->n, y, x, pixels, t->x);
    return t->x;
}

/* What comes after this piece: the next pixels of the input, this piece's of the next row of dy. */
static void ahead_next(const dd_run *run, const dd_step *s, const dd_conv *c, const pass *t,
                       int64_t y, int64_t x, int64_t pixels, dd_ahead *ahead) {
    dd_ahead_add(run, s->x, t->n, y, x + pixels, pixels, ahead);
    if ((y + c->pad_top) % c->stride == c->stride - 1)
        dd_ahead_add(run, s->dy, t->n, t->loaded, x / c->stride, pixels / c->stride + 1, ahead);
}

static void backward_row(const dd_run *run, const dd_step *s, const dd_conv *c, pass *t, int64_t y,
                         int64_t slot) {
    const float *rows[64];
    int64_t piece = piece_pixels(s, c);
    dy_ready(run, s, c, t, y, rows);
    dd_depthwise_backward d = {
        .dy_rows = rows,
        .dy_pitch = dd_is_floats(run->plan, s->dy) ? run->plan->values[s->dy].pitch : c->c_out,
        .out_width = c->ow,
        .k = c->k_h,
        .stride = c->stride,
        .c = c->c_in,
        .w = run->plan->packed + c->packed_dx,
        .wpitch = dd_depthwise_pitch(c),
        .dx = expands(s) ? t->expanded.gradient : t->dx,
        .dx_pitch = expands(s) ? t->expanded.pitch : c->c_in,
        .dw = t->part};
    for (int64_t x = 0; x < c->w; x += piece) {
        d.x_begin = c->pad_left + x;
        d.width = c->w - x < piece ? c->w - x : piece;
        d.x = x_ready(run, s, t, y, x, d.width, &d.pitch);
        dd_ahead ahead = {0};
        ahead_next(run, s, c, t, y, x, d.width, &ahead);
        dd_ahead_some(&ahead);
        if (s->dx >= 0 && !expands(s))
            d.dx = dd_piece_begin(run, s->dx, t->n, y, x, t->dx, &d.dx_pitch);
        run->plan->kernels->depthwise_backward_f32(&d);
        if (expands(s)) {
            dd_expand_gradient(run, s, t->n, y, x, d.width, &t->expanded, &ahead);
            continue;
        }
        dd_ahead_some(&ahead);
        if (s->reduction.norm >= 0)
            dd_norm_gradient_pixels(run, &s->reduction, d.dx, d.dx_pitch, t->n, y, x, d.width,
                                    slot);
        dd_ahead_some(&ahead);
        if (s->dx >= 0)
            dd_piece_end(run, s->dx, t->n, y, x, d.width, d.dx);
    }
}

/* Every row of dy belongs to one row of the input. */
static void add_bias(const dd_run *run, const dd_step *s, const dd_conv *c, pass *t, int64_t y,
                     double *sums) {
    for (int64_t row = (y + c->stride - 1) / c->stride; row < c->oh; row++) {
        if (y < c->h - 1 && row * c->stride != y)
            return;
        dd_load_pixels(run, s->dy, t->n, row, 0, c->ow, t->spare);
        dd_channel_sums sum = {.x = t->spare,
                               .pitch = c->c_out,
                               .row_pitch = c->ow * c->c_out,
                               .width = c->ow,
                               .rows = 1,
                               .c = c->c_out,
                               .sum = sums};
        run->plan->kernels->channel_sums_f32(&sum);
    }
}

static void add_part(const dd_run *run, const dd_step *s, const dd_conv *c, pass *t, int64_t slot) {
    int64_t floats = taps_floats(c);
    float *to = run->plan->slots + slot * floats;
    run->plan->kernels->binary_f32(DD_ADD, to, t->part, to, floats);
    memset(t->part, 0, (size_t)floats * sizeof(float));
    if (expands(s))
        dd_expand_add_part(run, s, &t->expanded, slot);
}

/* The parts of a thread's scratch; returns the floats that they take. */
static int64_t place(const dd_plan *plan, const dd_step *s, const dd_conv *c, float *scratch,
                     pass *t) {
    int64_t pixels = piece_pixels(s, c), piece = pixels * c->c_in, row = c->ow * c->c_in, at = 0;
    bool plain = !expands(s);
    int64_t sizes[] = {taps_floats(c), dd_load_floats(plan, s->dy, c->k_h * c->ow),
                       !plain     ? 0
                       : s->x < 0 ? piece
                                  : dd_load_floats(plan, s->x, pixels),
                       !plain      ? 0
                       : s->dx < 0 ? piece
                                   : dd_piece_floats(plan, s->dx, pixels),
                       wants_db(s) ? row : 0};
    float **parts[] = {&t->part, &t->ring, &t->x, &t->dx, &t->spare};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        *parts[i] = scratch ? scratch + at : NULL;
        at += (sizes[i] + 15) / 16 * 16;
    }
    if (!plain)
        at += dd_expand_place(plan, s, pixels, scratch ? scratch + at : NULL, &t->expanded);
    return at;
}

size_t dd_depthwise_backward_scratch(const dd_plan *plan, const dd_step *s, const dd_conv *c) {
    pass t;
    return (size_t)place(plan, s, c, NULL, &t) * sizeof(float);
}

void dd_depthwise_backward_unit(const dd_run *run, const dd_step *s, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv];
    pass t = {.n = -1};
    int64_t row, end;
    (void)place(run->plan, s, c, dd_scratch(run, thread), &t);
    memset(t.part, 0, (size_t)taps_floats(c) * sizeof(float));
    if (s->x < 0)
        memset(t.x, 0, (size_t)(piece_pixels(s, c) * c->c_in) * sizeof(float));
    dd_cut(c->n * c->h, s->n_slots, unit, &row, &end);
    for (int64_t done = 1; row < end; row++, done++) {
        if (row / c->h != t.n) {
            t.n = row / c->h;
            t.loaded = 0;
        }
        backward_row(run, s, c, &t, row % c->h, unit);
        if (wants_db(s))
            add_bias(run, s, c, &t, row % c->h,
                     run->plan->sums + s->db_sums + (size_t)unit * (size_t)c->c_out);
        if (wants_dw(s) && (done % PART_ROWS == 0 || row + 1 == end))
            add_part(run, s, c, &t, unit);
    }
    dd_pieces_done(run, s->dx);
}
