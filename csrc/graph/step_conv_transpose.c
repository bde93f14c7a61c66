/* Convolutions as products by taps: each tap is a matrix product of a row of input pixels with the
 * tap's weights (C, O), added to the output row's pixels that meet it. Transposed ones add to every
 * stride-th pixel; of dilated ones in inference, whose taps lie far apart, only the taps and pixels
 * inside the map are computed, where they are stored. A unit makes whole output rows: bias, then
 * taps of one order for every pixel, whatever the cut. */
#include "base/threads.h"
#include "graph/steps.h"

/* Fewer channels a group fill no vectors: the operator's own C does as well. */
enum { GROUP_CHANNELS = 8 };

static int64_t item(const dd_ints *list, int i, int64_t otherwise) {
    return list->n ? list->v[i] : otherwise;
}

/* One axis of the map: wide = narrow · stride - before + tap · dilation. Of a transposed
 * convolution the output is the wide one, of any other the input. */
typedef struct axis {
    int64_t narrow, wide, taps, stride, dilation, before;
} axis;

typedef struct geometry {
    axis y, x;
    bool transposed;
    int64_t groups, c, o;            /* channels of a group */
    size_t tap_floats, group_floats; /* packed */
} geometry;

static axis axis_of(const dd_ints *stride, const dd_ints *dilation, const dd_ints *pads, int k,
                    const dd_type *narrow, const dd_type *wide, const dd_type *weight) {
    return (axis){.narrow = narrow->dims[1 + k],
                  .wide = wide->dims[1 + k],
                  .taps = weight->dims[2 + k],
                  .stride = item(stride, k, 1),
                  .dilation = item(dilation, k, 1),
                  .before = item(pads, k, 0)};
}

static geometry measure(const dd_plan *plan, const dd_node *n) {
    const dd_type *x = &plan->values[n->in[0]].type, *y = &plan->values[n->out[0]].type;
    const dd_type *weight = &plan->values[n->in[1]].type;
    geometry g = {.transposed = n->op == &dd_op_conv_transpose};
    if (g.transposed) {
        const dd_conv_transpose_params *p = n->params;
        g.groups = p->groups;
        g.y = axis_of(&p->stride, &p->dilation, &p->pads, 0, x, y, weight);
        g.x = axis_of(&p->stride, &p->dilation, &p->pads, 1, x, y, weight);
    } else {
        const dd_conv_params *p = n->params;
        g.groups = p->groups;
        g.y = axis_of(&p->stride, &p->dilation, &p->pads, 0, y, x, weight);
        g.x = axis_of(&p->stride, &p->dilation, &p->pads, 1, y, x, weight);
    }
    g.c = x->dims[3] / g.groups;
    g.o = y->dims[3] / g.groups;
    g.group_floats = (plan->kernels->gemm_f32_packed(g.c, (int)g.o) + 15) / 16 * 16;
    g.tap_floats = g.group_floats * (size_t)g.groups;
    return g;
}

/* ---- weights ------------------------------------------------------------------------------- */

/* The weight lies as (C, O/groups, R, S), or (O, C/groups, R, S) of a plain convolution: a tap's is
 * a matrix of long strides. */
static void pack_tap(const dd_run *run, const dd_step *s, const geometry *g, int64_t tap) {
    const float *weight = run->plan->data[run->plan->graph->nodes[s->nodes[0]].in[1]];
    int64_t taps = g->y.taps * g->x.taps;
    int64_t row = g->transposed ? g->o * taps : taps, column = g->transposed ? taps : g->c * taps;
    float *packed = run->plan->packed + s->packed + (size_t)tap * g->tap_floats;
    for (int64_t i = 0; i < g->groups; i++)
        run->plan->kernels->gemm_f32_pack(weight + i * g->c * g->o * taps + tap, row, column, g->c,
                                          (int)g->o, packed + (size_t)i * g->group_floats);
}

static void prepare(const dd_run *run, const dd_step *s, int thread) {
    geometry g = measure(run->plan, &run->plan->graph->nodes[s->nodes[0]]);
    (void)thread;
    for (int64_t tap = 0; tap < g.y.taps * g.x.taps; tap++)
        pack_tap(run, s, &g, tap);
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* The narrow side's pixels whose tap falls inside the wide one's row: from *begin on. */
static int64_t columns_of(const axis *a, int64_t tap, int64_t *begin) {
    int64_t shift = a->before - tap * a->dilation; /* wide = narrow · stride - shift */
    int64_t end = a->wide - 1 + shift < 0 ? 0 : (a->wide - 1 + shift) / a->stride + 1;
    *begin = shift > 0 ? (shift + a->stride - 1) / a->stride : 0;
    end = end < a->narrow ? end : a->narrow;
    return end > *begin ? end - *begin : 0;
}

/* Adds one tap of an input row to the output row. */
static void add_tap(const dd_run *run, const dd_step *s, const geometry *g, const float *from,
                    int64_t tap, float *to) {
    const dd_plan *plan = run->plan;
    int64_t begin, column = tap % g->x.taps, count = columns_of(&g->x, column, &begin);
    int64_t first = begin * g->x.stride - g->x.before + column * g->x.dilation;
    int64_t pitch = plan->values[s->x].pitch, y_pitch = plan->values[s->y].pitch;
    for (int64_t i = 0; count > 0 && i < g->groups; i++) {
        const float *a = from + (g->transposed ? begin : first) * pitch + i * g->c;
        plan->kernels->gemm_f32(
            &(dd_gemm){.a = &a,
                       .lda = g->transposed ? pitch : g->x.stride * pitch,
                       .segments = 1,
                       .k = (int)g->c,
                       .b = plan->packed + s->packed + (size_t)tap * g->tap_floats +
                            (size_t)i * g->group_floats,
                       .c = to + (g->transposed ? first : begin) * y_pitch + i * g->o,
                       .ldc = g->transposed ? g->x.stride * y_pitch : y_pitch,
                       .m = count,
                       .n = (int)g->o,
                       .accumulate = true});
    }
}

/* The input row that tap row r of output row py meets; -1 where that is none. */
static int64_t row_of(const geometry *g, int64_t py, int64_t r) {
    const axis *a = &g->y;
    if (!g->transposed) {
        int64_t iy = py * a->stride - a->before + r * a->dilation;
        return iy >= 0 && iy < a->wide ? iy : -1;
    }
    int64_t place = py + a->before - r * a->dilation;
    return place >= 0 && place % a->stride == 0 && place / a->stride < a->narrow ? place / a->stride
                                                                                 : -1;
}

/* The bias first, then taps in order, the activation last. */
static void make_row(const dd_run *run, const dd_step *s, const geometry *g, int64_t n,
                     int64_t py) {
    const dd_plan *plan = run->plan;
    const dd_node *node = &plan->graph->nodes[s->nodes[0]];
    const float *bias = node->n_in > 2 && node->in[2] >= 0 ? plan->data[node->in[2]] : NULL;
    int64_t c = g->groups * g->o, pitch = plan->values[s->y].pitch;
    int64_t width = g->transposed ? g->x.wide : g->x.narrow;
    float *to = dd_row(run, s->y, n, py);
    for (int64_t x = 0; x < width; x++)
        for (int64_t i = 0; i < c; i++)
            to[x * pitch + i] = bias ? bias[i] : 0;
    for (int64_t r = 0; r < g->y.taps; r++) {
        int64_t iy = row_of(g, py, r);
        for (int64_t column = 0; iy >= 0 && column < g->x.taps; column++)
            add_tap(run, s, g, dd_row(run, s->x, n, iy), r * g->x.taps + column, to);
    }
    for (int64_t x = 0; s->act.kind != DD_IDENTITY && x < (pitch == c ? 1 : width); x++)
        plan->kernels->unary_f32(s->act, to + x * pitch, to + x * pitch,
                                 pitch == c ? width * c : c);
}

static void step_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    geometry g = measure(run->plan, &run->plan->graph->nodes[s->nodes[0]]);
    const dd_type *y = &run->plan->values[s->y].type;
    int64_t row, end;
    (void)thread;
    dd_cut(y->dims[0] * y->dims[1], s->units(run->plan, s, phase, dd_threads()), unit, &row, &end);
    for (; row < end; row++)
        make_row(run, s, &g, row / y->dims[1], row % y->dims[1]);
}

/* ---- matching ------------------------------------------------------------------------------ */

/* Weight and bias in the store, where they are dense; groups wide enough for vectors. */
static bool runs_by_products(const dd_plan *plan, const dd_node *n) {
    if (n->backward || dd_type_count(&plan->values[n->out[0]].type) == 0)
        return false;
    for (int i = 1; i < n->n_in; i++)
        if (n->in[i] >= 0 && plan->graph->values[n->in[i]].kind != DD_VALUE_ENTRY)
            return false;
    geometry g = measure(plan, n);
    return g.groups == 1 || (g.o >= GROUP_CHANNELS && g.c >= GROUP_CHANNELS);
}

static dd_status take(dd_plan *plan, int node, const char *pattern) {
    const dd_node *n = &plan->graph->nodes[node];
    dd_step *s;
    geometry g = measure(plan, n);
    DD_TRY(dd_step_new(plan, pattern, &s));
    s->run = step_run;
    s->units = dd_row_units;
    s->prepare = prepare;
    s->x = n->in[0];
    s->y = n->out[0];
    s->packed = plan->packed_size;
    plan->packed_size += (size_t)(g.y.taps * g.x.taps) * g.tap_floats;
    dd_step_node(plan, s, node);
    dd_step_reads(plan, s, s->x);
    dd_take_activation(plan, s);
    dd_step_writes(s, s->y);
    return DD_OK;
}

dd_status dd_match_conv_transpose(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    const dd_node *n = &plan->graph->nodes[node];
    (void)store;
    if (n->op != &dd_op_conv_transpose || !runs_by_products(plan, n))
        return DD_OK;
    *matched = true;
    return take(plan, node, "conv_transpose");
}

/* Where x is stored as it is: pixels are read in their places, and there is no margin of zeros. */
dd_status dd_match_dilated(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    const dd_node *n = &plan->graph->nodes[node];
    (void)store;
    if (n->op != &dd_op_conv || plan->graph->training || n->backward ||
        plan->values[n->in[0]].pending != DD_STORED ||
        plan->values[n->in[0]].type.dtype != DD_F32 || !runs_by_products(plan, n))
        return DD_OK;
    const dd_conv_params *p = n->params;
    if (item(&p->dilation, 0, 1) == 1 && item(&p->dilation, 1, 1) == 1)
        return DD_OK;
    *matched = true;
    return take(plan, node, "dilated");
}
