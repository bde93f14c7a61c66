/* The binary step: act(a ∘ b) with NumPy's broadcasting, by rows, prelu's slope being a b, too; and
 * softmax along the last axis.
 *
 * An operand that does not lie as the result does (fewer axes, repeats, a pitch of its own) is laid
 * out in scratch as it would lie; one that is the same for every row only once a unit. */
#include <string.h>

#include "base/threads.h"
#include "graph/steps.h"

enum { CHUNK_FLOATS = 8192 };

/* The result's pixels at a time, and what an operand is to them. */
typedef struct operand {
    const float *data;
    int64_t image, row, pixel, channel; /* strides; 0: repeats */
    bool in_place;                      /* dense pixels: read where they are */
    float *scratch;
    bool filled; /* with what all rows share */
} operand;

static int64_t chunk_pixels(const dd_map *m) {
    int64_t pixels = CHUNK_FLOATS / (m->c > 0 ? m->c : 1);
    pixels = pixels > 1 ? pixels : 1;
    return pixels < m->w ? pixels : m->w;
}

/* Axes are aligned at the end; the operand's shape as that of the result's map (n, h, w, c). */
static operand operand_of(const dd_run *run, int value, const dd_type *y, float *scratch) {
    const dd_pvalue *v = &run->plan->values[value];
    int64_t strides[DD_MAX_RANK] = {0}, step = 1;
    int missing = y->rank - v->type.rank;
    for (int k = v->type.rank; k-- > 0;) {
        bool first = k == 0 && v->type.rank >= 2;
        strides[k + missing] = v->type.dims[k] == 1 ? 0 : first ? v->image : step;
        step = k == v->type.rank - 1 ? v->pitch : step * v->type.dims[k];
    }
    operand o = {.data = run->plan->data[value], .scratch = scratch};
    int last = y->rank - 1;
    o.channel = last >= 0 ? strides[last] : 0;
    o.image = last >= 1 ? strides[0] : 0;
    if (y->rank == 4) {
        o.row = strides[1];
        o.pixel = strides[2];
    } else {
        o.pixel = last >= 2 ? strides[last - 1] : 0;
    }
    int64_t c = dd_type_last(y);
    o.in_place = (o.channel == 1 || c == 1) && (o.pixel == c || dd_map_of(y).w == 1);
    return o;
}

/* `count` pixels from (n, row, x) as the result has them. */
static const float *operand_pixels(const dd_run *run, operand *o, int64_t n, int64_t row, int64_t x,
                                   int64_t count, int64_t c) {
    const float *from = o->data + n * o->image + row * o->row + x * o->pixel;
    if (o->in_place)
        return from;
    if (o->filled)
        return o->scratch;
    if (o->channel == 1 && o->pixel >= c) {
        run->plan->kernels->copy_f32(from, o->pixel, o->scratch, c, count, c);
        return o->scratch;
    }
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < c; k++)
            o->scratch[i * c + k] = from[i * o->pixel + k * o->channel];
    o->filled = o->image == 0 && o->row == 0 && o->pixel == 0;
    return o->scratch;
}

/* Dense floats of the result from those of both operands. */
static void apply(const dd_plan *plan, const dd_node *n, const float *a, const float *b, float *y,
                  int64_t count) {
    if (n->op == &dd_op_prelu)
        plan->kernels->prelu_f32(a, b, y, count);
    else
        plan->kernels->binary_f32((dd_binary)((const dd_binary_params *)n->params)->kind, a, b, y,
                                  count);
}

static void binary_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_plan *plan = run->plan;
    const dd_pvalue *out = &plan->values[s->y];
    const dd_node *node = &plan->graph->nodes[s->nodes[0]];
    dd_map m = dd_map_of(&out->type);
    int64_t chunk = chunk_pixels(&m), begin, end;
    float *result = dd_scratch(run, thread);
    operand a = operand_of(run, s->x, &out->type, result + chunk * m.c);
    operand b = operand_of(run, s->residual, &out->type, result + 2 * chunk * m.c);
    dd_cut(m.n * m.h, s->units(plan, s, phase, dd_threads()), unit, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        for (int64_t x = 0; x < m.w; x += chunk) {
            int64_t n = row / m.h, y = row % m.h, count = m.w - x < chunk ? m.w - x : chunk;
            float *to = dd_row(run, s->y, n, y) + x * out->pitch;
            float *dense = out->pitch == m.c ? to : result;
            apply(plan, node, operand_pixels(run, &a, n, y, x, count, m.c),
                  operand_pixels(run, &b, n, y, x, count, m.c), dense, count * m.c);
            if (s->act.kind != DD_IDENTITY)
                plan->kernels->unary_f32(s->act, dense, dense, count * m.c);
            if (dense != to)
                plan->kernels->copy_f32(dense, m.c, to, out->pitch, count, m.c);
        }
}

dd_status dd_match_binary(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    bool arithmetic =
        n->op == &dd_op_binary && ((const dd_binary_params *)n->params)->kind < DD_BINARIES;
    if ((!arithmetic && n->op != &dd_op_prelu) || n->backward)
        return DD_OK;
    const dd_type *y = &plan->values[n->out[0]].type;
    if (y->dtype != DD_F32 || y->rank == 0 || y->rank > 4 || dd_type_count(y) == 0)
        return DD_OK;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "binary", &s));
    s->run = binary_run;
    s->units = dd_row_units;
    s->x = n->in[0];
    s->residual = n->in[1];
    s->y = n->out[0];
    dd_step_node(plan, s, node);
    dd_step_reads(plan, s, s->x);
    dd_step_reads(plan, s, s->residual);
    dd_take_activation(plan, s);
    dd_step_writes(s, s->y);
    dd_map m = dd_map_of(&plan->values[s->y].type);
    s->scratch = 3 * (size_t)(chunk_pixels(&m) * m.c) * sizeof(float);
    *matched = true;
    return DD_OK;
}

/* ---- softmax ------------------------------------------------------------------------------- */

static void softmax_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_pvalue *x = &run->plan->values[s->x], *y = &run->plan->values[s->y];
    dd_map m = dd_map_of(&y->type);
    int64_t begin, end;
    (void)thread;
    dd_cut(m.n * m.h, s->units(run->plan, s, phase, dd_threads()), unit, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        run->plan->kernels->softmax_f32(dd_row(run, s->x, row / m.h, row % m.h), x->pitch,
                                        dd_row(run, s->y, row / m.h, row % m.h), y->pitch, m.w,
                                        (int)m.c);
}

dd_status dd_match_softmax(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (n->op != &dd_op_softmax || n->backward)
        return DD_OK;
    const dd_type *y = &plan->values[n->out[0]].type;
    int64_t axis = ((const dd_axis_params *)n->params)->axis;
    if ((axis != -1 && axis != y->rank - 1) || y->rank < 2 || n->n_out != 1 ||
        dd_type_count(y) == 0)
        return DD_OK;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "softmax", &s));
    s->run = softmax_run;
    s->units = dd_row_units;
    s->x = n->in[0];
    s->y = n->out[0];
    dd_step_node(plan, s, node);
    dd_step_reads(plan, s, s->x);
    dd_step_writes(s, s->y);
    *matched = true;
    return DD_OK;
}
