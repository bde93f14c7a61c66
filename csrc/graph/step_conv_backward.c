/* The backward pair: the gradients of a convolution's input and weights in one pass over the rows
 * of dy, which its load forms from a pending batch-norm gradient. What a depthwise one does with a
 * slot is step_depthwise_backward.c.
 *
 * The rows of dy are cut into slots, a unit each: a slot adds its share of the weight gradient to
 * memory of its own, and a second phase adds the slots in order. So bits do not depend on threads.
 * Letters as in step_conv.c. */
#include "graph/steps.h"

#include <string.h>

#include "base/threads.h"

/* A strip of the pass: dy rows [y, y_end) and the input rows [x_first, x_end) whose gradient they
 * complete, with what the load made of both. */
typedef struct strip {
    int64_t n, y, y_end;
    int64_t dx_begin, dx_end; /* rows of dx to write */
    const float *dy;          /* row dy_first, pixel -dy_left */
    int64_t dy_first, dy_left, dy_pitch, dy_row;
    const float *x; /* row y·stride - pad_top, pixel -pad_left */
    int64_t x_pitch, x_row;
    float *dx; /* row dx_begin */
    int64_t dx_pitch;
} strip;

static int64_t slot_floats(const dd_conv *c) {
    if (c->depthwise)
        return c->k_h * c->k_w * dd_depthwise_pitch(c);
    return (int64_t)c->k_h * c->k_w * (c->c_in / c->groups) * c->c_out;
}

/* Zero pixels that the phases of dx read left and right of a row of dy. */
static void dy_margins(const dd_conv *c, int64_t *left, int64_t *right) {
    *left = *right = 0;
    for (int i = 0; i < c->n_phases; i++) {
        const dd_conv_phase *p = &c->phases[i];
        int64_t pixels = (c->w - p->x0 + c->stride - 1) / c->stride;
        int64_t last = pixels - 1 + p->first_x + p->taps_x - 1 - (c->ow - 1);
        if (p->taps_x == 0)
            continue;
        *left = -p->first_x > *left ? -p->first_x : *left;
        *right = last > *right ? last : *right;
    }
}

static int64_t floor_div(int64_t a, int64_t b) {
    return a >= 0 ? a / b : -((-a + b - 1) / b);
}

/* Rows of dy that the strip's dx and dw need. */
static void dy_rows(const dd_conv *c, const dd_step *s, const strip *t, int64_t *first,
                    int64_t *end) {
    *first = t->y;
    *end = t->y_end;
    if (s->dx < 0)
        return;
    int64_t low = floor_div(t->dx_begin + c->pad_top - (c->k_h - 1), c->stride);
    int64_t high = floor_div(t->dx_end - 1 + c->pad_top, c->stride) + 1;
    *first = low < *first ? low : *first;
    *end = high > *end ? high : *end;
}

static int64_t x_width(const dd_conv *c) {
    int64_t width = (c->ow - 1) * c->stride + (int64_t)(c->k_w - 1) * c->dilation + 1;
    int64_t least = c->pad_left + c->w;
    return width > least ? width : least;
}

static void load(const dd_run *run, const dd_step *s, const dd_conv *c, strip *t, float *scratch) {
    int64_t first, end, left, right;
    dy_rows(c, s, t, &first, &end);
    dy_margins(c, &left, &right);
    if (s->dx < 0)
        left = right = 0;
    dd_load_strip(run, s->dy, t->n, first, end - first, left, right, scratch);
    t->dy = scratch;
    t->dy_first = first;
    t->dy_left = left;
    t->dy_pitch = c->c_out;
    t->dy_row = (left + c->ow + right) * c->c_out;
    scratch += (end - first) * t->dy_row;
    if (s->dx >= 0 && t->dx_end > t->dx_begin) {
        t->dx = dd_piece_begin(run, s->dx, t->n, t->dx_begin, 0, scratch, &t->dx_pitch);
        scratch += dd_piece_floats(run->plan, s->dx, (t->dx_end - t->dx_begin) * c->w);
    }
    if (s->dw_entry < 0 && s->dw < 0)
        return;
    int64_t reach = (int64_t)(c->k_h - 1) * c->dilation + 1;
    dd_load_strip(run, s->x, t->n, t->y * c->stride - c->pad_top,
                  (t->y_end - t->y - 1) * c->stride + reach, c->pad_left,
                  x_width(c) - c->pad_left - c->w, scratch);
    t->x = scratch;
    t->x_pitch = c->c_in;
    t->x_row = x_width(c) * c->c_in;
}

/* ---- the gradient of the input ------------------------------------------------------------- */

static float *dx_row(const dd_conv *c, const strip *t, int64_t y) {
    return t->dx + (y - t->dx_begin) * c->w * t->dx_pitch;
}

static void dx_phase_row(const dd_run *run, const dd_step *s, const dd_conv *c, const strip *t,
                         const dd_conv_phase *p, int64_t y) {
    int in = c->c_in / c->groups, o = c->c_out / c->groups;
    int64_t pixels = (c->w - p->x0 + c->stride - 1) / c->stride;
    int64_t source = (y - p->y0) / c->stride + p->first_y;
    const float *base =
        t->dy + (source - t->dy_first) * t->dy_row + (t->dy_left + p->first_x) * t->dy_pitch;
    const float *a[64];
    size_t group = run->plan->kernels->gemm_f32_packed((int64_t)p->taps_y * p->taps_x * o, in);
    bool by_tap = c->groups > 1;
    int segments = by_tap ? p->taps_y * p->taps_x : p->taps_y;
    for (int g = 0; g < c->groups; g++) {
        for (int i = 0; i < segments; i++)
            a[i] = by_tap
                       ? base + (i / p->taps_x) * t->dy_row + (i % p->taps_x) * t->dy_pitch + g * o
                       : base + i * t->dy_row;
        dd_gemm m = {.a = a,
                     .lda = t->dy_pitch,
                     .segments = segments,
                     .k = by_tap ? o : p->taps_x * o,
                     .b = run->plan->packed + c->packed_dx + p->packed + (size_t)g * group,
                     .c = dx_row(c, t, y) + p->x0 * t->dx_pitch + g * in,
                     .ldc = c->stride * t->dx_pitch,
                     .m = pixels,
                     .n = in,
                     .n_end = in};
        if (s->dx_residual >= 0) {
            int64_t pitch = run->plan->values[s->dx_residual].pitch;
            m.residual = dd_row(run, s->dx_residual, t->n, y) + p->x0 * pitch + g * in;
            m.ldr = c->stride * pitch;
        }
        run->plan->kernels->gemm_f32(&m);
    }
}

/* Pixels that no tap meets. */
static void dx_untouched_row(const dd_run *run, const dd_step *s, const dd_conv *c, const strip *t,
                             const dd_conv_phase *p, int64_t y) {
    float *to = dx_row(c, t, y);
    for (int64_t x = p->x0; x < c->w; x += c->stride) {
        if (s->dx_residual >= 0)
            memmove(to + x * t->dx_pitch,
                    dd_row(run, s->dx_residual, t->n, y) +
                        x * run->plan->values[s->dx_residual].pitch,
                    (size_t)c->c_in * sizeof(float));
        else
            memset(to + x * t->dx_pitch, 0, (size_t)c->c_in * sizeof(float));
    }
}

static void dx_dense(const dd_run *run, const dd_step *s, const dd_conv *c, const strip *t) {
    for (int64_t y = t->dx_begin; y < t->dx_end; y++)
        for (int i = 0; i < c->n_phases; i++) {
            const dd_conv_phase *p = &c->phases[i];
            if (y % c->stride != p->y0 || p->x0 >= c->w)
                continue;
            if (p->taps_y * p->taps_x == 0)
                dx_untouched_row(run, s, c, t, p, y);
            else
                dx_phase_row(run, s, c, t, p, y);
        }
}

/* ---- the gradient of the weights ----------------------------------------------------------- */

static void dw_product(const dd_run *run, const float *x, int64_t lda, const float *dy, int64_t ldb,
                       float *to, int64_t m, int k, int n) {
    dd_gemm_tn g = {
        .a = x, .lda = lda, .b = dy, .ldb = ldb, .c = to, .ldc = n, .m = m, .k = k, .n = n};
    run->plan->kernels->gemm_tn_f32(&g);
}

/* Slot layout: [group][tap row][tap column][input channel][output channel]. */
static void dw_dense(const dd_run *run, const dd_conv *c, const strip *t, float *slot) {
    int in = c->c_in / c->groups, o = c->c_out / c->groups;
    const float *dy = t->dy + (t->y - t->dy_first) * t->dy_row + t->dy_left * t->dy_pitch;
    int64_t rows = t->y_end - t->y;
    /* Rows of both strips that are equally long run on as one product: the zero pixels between
     * them add nothing. */
    bool joined = c->stride == 1 && t->x_row / t->x_pitch == t->dy_row / t->dy_pitch;
    for (int g = 0; g < c->groups; g++)
        for (int r = 0; r < c->k_h; r++) {
            float *to = slot + ((int64_t)(g * c->k_h + r) * c->k_w) * in * o;
            for (int64_t i = 0; i < (joined ? 1 : rows); i++) {
                const float *x =
                    t->x + (i * c->stride + (int64_t)r * c->dilation) * t->x_row + g * in;
                int64_t m = joined ? (rows - 1) * (t->x_row / t->x_pitch) + c->ow : c->ow;
                if (!c->by_tap) {
                    dw_product(run, x, c->stride * t->x_pitch, dy + i * t->dy_row, t->dy_pitch, to,
                               m, c->k_w * in, o);
                    continue;
                }
                for (int w = 0; w < c->k_w; w++)
                    dw_product(run, x + (int64_t)w * c->dilation * t->x_pitch,
                               c->stride * t->x_pitch, dy + i * t->dy_row + g * o, t->dy_pitch,
                               to + (int64_t)w * in * o, m, in, o);
            }
        }
}

static void db_rows(const dd_run *run, const dd_conv *c, const strip *t, double *sums) {
    dd_channel_sums sum = {.x = t->dy + (t->y - t->dy_first) * t->dy_row + t->dy_left * t->dy_pitch,
                           .pitch = t->dy_pitch,
                           .row_pitch = t->dy_row,
                           .width = c->ow,
                           .rows = t->y_end - t->y,
                           .c = c->c_out,
                           .sum = sums};
    run->plan->kernels->channel_sums_f32(&sum);
}

enum { REDUCED = 256 }; /* floats of a row whose slots are added at a time */

/* sum[j] = Σ over the slots, in order, of from[j]. */
static void add_slots(const float *from, int64_t slot_step, int n_slots, int64_t n, float *sum) {
    memset(sum, 0, (size_t)n * sizeof *sum);
    for (int slot = 0; slot < n_slots; slot++, from += slot_step)
        for (int64_t j = 0; j < n; j++)
            sum[j] += from[j];
}

/* The sum goes to the gradient (OIHW) or to the stored value. */
void dd_conv_dw_reduce(const dd_run *run, const dd_step *s, const dd_conv *c, int64_t unit,
                       int64_t units) {
    int taps = c->k_h * c->k_w, in = c->c_in / c->groups, o = c->c_out / c->groups;
    bool add = s->dw_entry >= 0;
    float *to = add ? run->binding->gradient + run->binding->store->entries[s->dw_entry].offset
                    : run->plan->data[s->dw];
    int64_t rows = c->depthwise ? taps : (int64_t)c->groups * taps * in, begin, end;
    int64_t length = c->depthwise ? c->c_in : o;
    int64_t pitch = c->depthwise ? dd_depthwise_pitch(c) : o;
    dd_cut(rows, units, unit, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        for (int64_t j = 0; j < length; j += REDUCED) {
            float sum[REDUCED];
            int64_t n = length - j < REDUCED ? length - j : REDUCED;
            add_slots(run->plan->slots + row * pitch + j, slot_floats(c), s->n_slots, n, sum);
            /* A depthwise row is a tap, another (group, tap, input channel). */
            int64_t i = row % in, tap = row / in % taps, g = row / in / taps;
            int64_t at = c->depthwise ? j * taps + row : ((g * o + j) * in + i) * taps + tap;
            int64_t step = c->depthwise ? taps : (int64_t)in * taps;
            for (int64_t k = 0; k < n; k++)
                to[at + k * step] = (add ? to[at + k * step] : 0) + sum[k];
        }
}

static void db_reduce(const dd_run *run, const dd_step *s, const dd_conv *c) {
    bool add = s->db_entry >= 0;
    float *to = add ? run->binding->gradient + run->binding->store->entries[s->db_entry].offset
                    : run->plan->data[s->db];
    for (int j = 0; j < c->c_out; j++) {
        double sum = 0;
        for (int slot = 0; slot < s->n_slots; slot++)
            sum += run->plan->sums[s->db_sums + (size_t)slot * (size_t)c->c_out + (size_t)j];
        to[j] = (add ? to[j] : 0) + (float)sum;
    }
}

/* ---- the step ------------------------------------------------------------------------------ */

static bool wants_dw(const dd_step *s) {
    return s->dw >= 0 || s->dw_entry >= 0;
}

static bool wants_db(const dd_step *s) {
    return s->db >= 0 || s->db_entry >= 0;
}

static void backward_strip(const dd_run *run, const dd_step *s, const dd_conv *c, strip *t,
                           int64_t unit, float *scratch) {
    t->dx_begin = t->y == 0 ? 0 : t->y * c->stride;
    t->dx_end = t->y_end == c->oh ? c->h : t->y_end * c->stride;
    t->dx_begin = t->dx_begin < c->h ? t->dx_begin : c->h;
    t->dx_end = t->dx_end < c->h ? t->dx_end : c->h;
    load(run, s, c, t, scratch);
    if (s->dx >= 0 && t->dx_end > t->dx_begin) {
        int64_t rows = t->dx_end - t->dx_begin;
        dx_dense(run, s, c, t);
        for (int64_t i = 0; s->reduction.norm >= 0 && i < rows; i++)
            dd_norm_gradient_pixels(run, &s->reduction, dx_row(c, t, t->dx_begin + i), t->dx_pitch,
                                    t->n, t->dx_begin + i, 0, c->w, unit);
        dd_piece_end(run, s->dx, t->n, t->dx_begin, 0, rows * c->w, t->dx);
    }
    if (wants_dw(s))
        dw_dense(run, c, t, run->plan->slots + unit * slot_floats(c));
    if (wants_db(s))
        db_rows(run, c, t, run->plan->sums + s->db_sums + (size_t)unit * (size_t)c->c_out);
}

static int64_t backward_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    const dd_conv *c = &plan->convs[s->conv];
    (void)threads;
    if (phase == 1)
        return slot_floats(c) < 4096 ? 1 : 16;
    return s->n_slots;
}

static void backward_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv];
    if (phase == 1) {
        if (s->reduction.norm >= 0 && unit == 0)
            dd_norm_gradient_finish(run, &s->reduction, s->n_slots);
        if (wants_dw(s))
            dd_conv_dw_reduce(run, s, c, unit, backward_units(run->plan, s, 1, 1));
        if (wants_db(s) && unit == 0)
            db_reduce(run, s, c);
        return;
    }
    if (wants_dw(s))
        memset(run->plan->slots + unit * slot_floats(c), 0, (size_t)slot_floats(c) * sizeof(float));
    if (wants_db(s))
        memset(run->plan->sums + s->db_sums + (size_t)unit * (size_t)c->c_out, 0,
               (size_t)c->c_out * sizeof(double));
    if (s->reduction.norm >= 0)
        dd_norm_gradient_begin(run, &s->reduction, unit);
    if (c->depthwise) {
        dd_depthwise_backward_unit(run, s, unit, thread);
        return;
    }
    if (dd_conv_pointwise(c)) {
        dd_pointwise_backward_unit(run, s, unit, thread);
        return;
    }
    int64_t row, end;
    dd_cut(c->n * c->oh, s->n_slots, unit, &row, &end);
    while (row < end) {
        strip t = {.n = row / c->oh, .y = row % c->oh};
        int64_t rows = end - row < c->oh - t.y ? end - row : c->oh - t.y;
        rows = rows < s->strip ? rows : s->strip;
        t.y_end = t.y + rows;
        backward_strip(run, s, c, &t, unit, dd_scratch(run, thread));
        row += rows;
    }
    dd_pieces_done(run, s->dx);
}

/* Bytes of the strips for `rows` rows of dy. */
static size_t scratch_bytes(const dd_plan *plan, const dd_step *s, const dd_conv *c, int64_t rows) {
    int64_t left, right, reach = (int64_t)(c->k_h - 1) * c->dilation + 1, floats;
    dy_margins(c, &left, &right);
    floats = (rows + 2 * (reach / c->stride + 2)) * (left + c->ow + right) * c->c_out;
    if (wants_dw(s))
        floats += ((rows - 1) * c->stride + reach) * x_width(c) * c->c_in;
    if (s->dx >= 0) /* the last strip has the rows below all taps as well */
        floats += dd_piece_floats(plan, s->dx, (rows * c->stride + reach + c->stride) * c->w);
    return (size_t)floats * sizeof(float);
}

static void choose_slots(dd_step *s, const dd_conv *c) {
    /* Few slots for large weights: each costs a pass over its memory. */
    int64_t floats = slot_floats(c), slots = floats > 65536 ? 4 : floats > 16384 ? 8 : DD_SLOTS;
    int64_t rows = c->n * (c->depthwise ? c->h : c->oh);
    s->n_slots = (int)(slots < rows ? slots : rows);
}

static void choose_strip(const dd_plan *plan, dd_step *s, const dd_conv *c) {
    choose_slots(s, c);
    if (c->depthwise) {
        s->scratch = dd_depthwise_backward_scratch(plan, s, c);
        return;
    }
    if (dd_conv_pointwise(c)) {
        s->scratch = dd_pointwise_backward_scratch(plan, s, c);
        return;
    }
    int64_t rows = c->oh;
    while (rows > 1 && scratch_bytes(plan, s, c, rows) > (256u << 10))
        rows = (rows + 1) / 2;
    if (plan->options.strip_rows > 0)
        rows = plan->options.strip_rows < c->oh ? plan->options.strip_rows : c->oh;
    s->strip = (int)rows;
    s->scratch = scratch_bytes(plan, s, c, rows);
}

static void take_gradient(const dd_plan *plan, dd_step *s, int value, int *stored, int *entry) {
    *entry = dd_gradient_entry(plan, value);
    *stored = -1;
    if (*entry < 0 && value >= 0 && plan->n_readers[value] > 0) {
        *stored = value;
        dd_step_writes(s, value);
    }
}

/* dx + other gradient of the same value: the product's residual. */
void dd_conv_take_residual(dd_plan *plan, dd_step *s, const dd_conv *c) {
    int reader = dd_sole_reader(plan, s->dx);
    if (c->depthwise || reader < 0 || plan->taken[reader] || dd_is_output(plan, s->dx))
        return;
    const dd_node *node = &plan->graph->nodes[reader];
    if (node->op != &dd_op_binary || ((const dd_binary_params *)node->params)->kind != DD_ADD)
        return;
    int other = node->in[0] == s->dx ? node->in[1] : node->in[0];
    if (other == s->dx || plan->values[other].pending ||
        !dd_type_equal(&plan->values[other].type, &plan->values[s->dx].type))
        return;
    s->dx_residual = other;
    s->dx = node->out[0];
    dd_step_reads(plan, s, other);
    dd_step_node(plan, s, reader);
}

/* Where dx is the gradient behind a batch norm, its sums are made while dx is in cache. */
void dd_conv_take_reduction(dd_plan *plan, dd_step *s) {
    for (int i = 0; i < plan->n_readers[s->dx]; i++) {
        int reader = plan->readers[s->dx][i];
        const dd_node *n = &plan->graph->nodes[reader];
        if (n->op != &dd_op_bn_reduce || n->backward || plan->norm_of[reader] < 0 ||
            plan->taken[reader] || n->in[0] != s->dx)
            continue;
        /* It runs at this step's place, before its own: all else that it reads is forward's. */
        plan->taken[reader] = true;
        s->nodes[s->n_nodes++] = reader;
        s->reduction = dd_norm_gradient_of(plan, s, reader);
        dd_step_reads(plan, s, plan->norms[s->reduction.norm].x);
        return;
    }
}

static int partner(const dd_plan *plan, int node, int dy) {
    const dd_graph *g = plan->graph;
    for (int i = 0; i < plan->n_readers[dy]; i++) {
        int r = plan->readers[dy][i];
        if (r != node && !plan->taken[r] && plan->conv_of[r] == plan->conv_of[node] &&
            g->nodes[r].op != g->nodes[node].op &&
            (g->nodes[r].op == &dd_op_conv_dx || g->nodes[r].op == &dd_op_conv_dw))
            return r;
    }
    return -1;
}

/* Whether all that reads dx comes after node `at`. */
static bool read_after(const dd_plan *plan, int value, int at) {
    for (int i = 0; i < plan->n_readers[value]; i++)
        if (plan->readers[value][i] <= at)
            return false;
    return true;
}

dd_status dd_match_conv_backward(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_graph *g = plan->graph;
    const dd_node *n = &g->nodes[node];
    if ((n->op != &dd_op_conv_dx && n->op != &dd_op_conv_dw) || n->backward ||
        plan->conv_of[node] < 0)
        return DD_OK;
    dd_conv *c = &plan->convs[plan->conv_of[node]];
    int dy = n->op == &dd_op_conv_dx ? n->in[0] : n->in[1];
    int other = partner(plan, node, dy);
    if (other >= 0) {
        const dd_node *o = &g->nodes[other];
        int dx_value = n->op == &dd_op_conv_dx ? n->out[0] : o->out[0];
        if (!read_after(plan, dx_value, node > other ? node : other))
            other = -1;
    }
    dd_step *s;
    DD_TRY(dd_step_new(plan, "conv_backward", &s));
    s->conv = plan->conv_of[node];
    s->run = backward_run;
    s->units = backward_units;
    s->dy = dy;
    dd_step_reads(plan, s, dy);
    int pair[2] = {node, other};
    for (int i = 0; i < 2; i++) {
        if (pair[i] < 0)
            continue;
        const dd_node *part = &g->nodes[pair[i]];
        dd_step_node(plan, s, pair[i]);
        if (part->op == &dd_op_conv_dx) {
            s->dx = part->out[0];
            continue;
        }
        s->x = part->in[0];
        take_gradient(plan, s, part->out[0], &s->dw, &s->dw_entry);
        take_gradient(plan, s, part->n_out > 1 ? part->out[1] : -1, &s->db, &s->db_entry);
        dd_step_reads(plan, s, s->x);
    }
    if (s->dx >= 0) {
        dd_conv_take_residual(plan, s, c);
        dd_conv_take_reduction(plan, s);
        dd_step_writes(s, s->dx);
        c->uses_dx = true;
        c->packed_dx = plan->packed_size;
        plan->packed_size += (c->packed_dx_floats + 15) / 16 * 16;
    }
    choose_strip(plan, s, c);
    s->halves = true;
    s->n_phases = wants_dw(s) || wants_db(s) || s->reduction.norm >= 0 ? 2 : 1;
    if (wants_dw(s)) {
        size_t slots = (size_t)slot_floats(c) * (size_t)s->n_slots;
        plan->slots_size = slots > plan->slots_size ? slots : plan->slots_size;
    }
    if (wants_db(s)) {
        s->db_sums = plan->sums_size;
        plan->sums_size += (size_t)s->n_slots * (size_t)c->c_out;
    }
    *matched = true;
    return DD_OK;
}
