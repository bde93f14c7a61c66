/* The convolution step: load → matrix product or depthwise → store.
 *
 * Letters: N, H, W, C the input; OH, OW, O the output; K the kernel's side. Geometry that the
 * forward pass and the gradient of the input share is a dd_conv_phase: every phase is a matrix
 * product over the taps that its pixels meet. */
#include "graph/steps.h"

#include <string.h>

#include "base/memory.h"
#include "base/threads.h"

static int list_or(const dd_ints *list, int i, int initial) {
    return list->n > i ? (int)list->v[i] : list->n == 1 ? (int)list->v[0] : initial;
}

static void fill_geometry(dd_conv *c, const dd_type *x, const dd_type *y, const dd_type *weight) {
    c->k_h = (int)weight->dims[2];
    c->k_w = (int)weight->dims[3];
    c->stride = list_or(&c->p.stride, 0, 1);
    c->dilation = list_or(&c->p.dilation, 0, 1);
    c->pad_top = list_or(&c->p.pads, 0, 0);
    c->pad_left = list_or(&c->p.pads, 1, 0);
    c->pad_bottom = list_or(&c->p.pads, 2, 0);
    c->pad_right = list_or(&c->p.pads, 3, 0);
    c->groups = c->p.groups > 0 ? (int)c->p.groups : 1;
    c->n = x->dims[0];
    c->h = x->dims[1];
    c->w = x->dims[2];
    c->c_in = (int)x->dims[3];
    c->oh = y->dims[1];
    c->ow = y->dims[2];
    c->c_out = (int)y->dims[3];
    c->depthwise = c->groups > 1 && c->groups == c->c_in && c->groups == c->c_out &&
                   c->k_h == c->k_w && c->dilation == 1;
    c->by_tap = !c->depthwise && (c->groups > 1 || c->dilation > 1);
    c->spread = c->by_tap && c->groups == c->c_in && c->groups == c->c_out && c->k_h == c->k_w &&
                c->stride == 1;
}

/* Taps r of kernel side k that an input position of residue `residue` meets, the source row of the
 * first of them (in ascending order of source) for the position itself. */
static int phase_taps(int residue, int k, int stride, int pad, int *first_source, int *last_tap) {
    int taps = 0;
    for (int r = 0; r < k; r++) {
        if ((residue + pad - r) % stride != 0)
            continue;
        *last_tap = r;
        taps++;
    }
    *first_source = taps ? (residue + pad - *last_tap) / stride : 0;
    return taps;
}

static size_t group_floats(const dd_kernels_table *kernels, const dd_conv *c, int taps, bool dx) {
    int k = (dx ? c->c_out : c->c_in) / c->groups, n = (dx ? c->c_in : c->c_out) / c->groups;
    return kernels->gemm_f32_packed((int64_t)taps * k, n) * (size_t)c->groups;
}

/* The floats of a depthwise kernel, taps × channels, with a pitch of whole vectors. */
int64_t dd_depthwise_pitch(const dd_conv *c) {
    return (c->c_in + 15) / 16 * 16;
}

static void fill_phases(const dd_kernels_table *kernels, dd_conv *c) {
    c->forward = (dd_conv_phase){
        .taps_y = c->k_h, .taps_x = c->k_w, .first_y = -c->pad_top, .first_x = -c->pad_left};
    if (c->depthwise) {
        c->packed_floats = (size_t)(c->k_h * c->k_w) * (size_t)dd_depthwise_pitch(c);
        c->packed_dx_floats = c->packed_floats;
        return;
    }
    c->packed_floats = c->spread ? (size_t)(c->k_h * c->k_w) * (size_t)dd_depthwise_pitch(c)
                                 : group_floats(kernels, c, c->k_h * c->k_w, false);
    c->n_phases = 0;
    c->packed_dx_floats = 0;
    if (c->dilation > 1)
        return;
    for (int y = 0; y < c->stride; y++)
        for (int x = 0; x < c->stride; x++) {
            dd_conv_phase *phase = &c->phases[c->n_phases++];
            int last_y = 0, last_x = 0;
            *phase = (dd_conv_phase){.y0 = y, .x0 = x};
            phase->taps_y = phase_taps(y, c->k_h, c->stride, c->pad_top, &phase->first_y, &last_y);
            phase->taps_x = phase_taps(x, c->k_w, c->stride, c->pad_left, &phase->first_x, &last_x);
            phase->packed = c->packed_dx_floats;
            c->packed_dx_floats += group_floats(kernels, c, phase->taps_y * phase->taps_x, true);
        }
}

dd_status dd_conv_record(dd_plan *plan, const dd_store *store, int node, int x, int y, int weight,
                         int bias, int *conv) {
    const dd_value *values = plan->graph->values;
    const dd_type *tx = &plan->values[x].type, *ty = &plan->values[y].type;
    *conv = -1;
    if (values[weight].kind != DD_VALUE_ENTRY || (bias >= 0 && values[bias].kind != DD_VALUE_ENTRY))
        return DD_OK;
    dd_conv c = {.p = *(const dd_conv_params *)plan->graph->nodes[node].params,
                 .weight = values[weight].entry,
                 .bias = bias >= 0 ? values[bias].entry : -1};
    if (tx->dtype != DD_F32 || tx->rank != 4 || ty->rank != 4)
        return DD_OK;
    fill_geometry(&c, tx, ty, &store->entries[c.weight].type);
    bool square = list_or(&c.p.stride, 1, c.stride) == c.stride &&
                  list_or(&c.p.dilation, 1, c.dilation) == c.dilation;
    if (!square || c.stride > 4 || c.n * c.oh * c.ow == 0)
        return DD_OK;
    fill_phases(plan->kernels, &c);
    DD_TRY(dd_reserve(&plan->convs, &plan->convs_capacity, plan->n_convs + 1, sizeof c));
    plan->convs[plan->n_convs] = c;
    *conv = (int)plan->n_convs++;
    return DD_OK;
}

/* ---- packing ------------------------------------------------------------------------------- */

static void pack_depthwise(const dd_conv *c, const float *weight, float *packed) {
    int taps = c->k_h * c->k_w;
    int64_t pitch = dd_depthwise_pitch(c);
    memset(packed, 0, (size_t)(taps * pitch) * sizeof(float));
    for (int ch = 0; ch < c->c_in; ch++)
        for (int t = 0; t < taps; t++)
            packed[t * pitch + ch] = weight[ch * taps + t];
}

/* A row of taps in the order of channels, then taps. */
static float *gather_planes(const dd_conv *c, const float *row, float *to) {
    int taps = c->k_h * c->k_w;
    for (int ch = 0; ch < c->c_in; ch++)
        for (int tx = 0; tx < c->k_w; tx++)
            for (int o = 0; o < c->c_out; o++)
                *to++ = row[((int64_t)o * c->c_in + ch) * taps + tx];
    return to;
}

/* One group's weights in the order of taps, then channels: gathered to (taps·k, n), then packed.
 */
static void pack_taps(const dd_kernels_table *kernels, const dd_conv *c, const dd_conv_phase *phase,
                      const float *weight, bool dx, float *gathered, float *packed) {
    int in = c->c_in / c->groups, out = c->c_out / c->groups, taps = c->k_h * c->k_w;
    int k = dx ? out : in, n = dx ? in : out;
    size_t group = kernels->gemm_f32_packed((int64_t)phase->taps_y * phase->taps_x * k, n);
    for (int g = 0; g < c->groups; g++) {
        float *to = gathered;
        for (int ty = 0; ty < phase->taps_y; ty++) {
            if (c->planar) {
                to = gather_planes(c, weight + ty * c->k_w, to);
                continue;
            }
            for (int tx = 0; tx < phase->taps_x; tx++) {
                /* The gradient meets its taps in descending order, `stride` apart. */
                int r = ty, s = tx;
                if (dx) {
                    r = (phase->y0 + c->pad_top) - (phase->first_y + ty) * c->stride;
                    s = (phase->x0 + c->pad_left) - (phase->first_x + tx) * c->stride;
                }
                const float *tap = weight + (int64_t)g * out * in * taps + r * c->k_w + s;
                for (int i = 0; i < k; i++)
                    for (int j = 0; j < n; j++) {
                        int o = dx ? i : j, ch = dx ? j : i;
                        *to++ = tap[((int64_t)o * in + ch) * taps];
                    }
            }
        }
        kernels->gemm_f32_pack(gathered, n, 1, (int64_t)phase->taps_y * phase->taps_x * k, n,
                               packed + (size_t)g * group);
    }
}

size_t dd_conv_pack_scratch(const dd_conv *c) {
    size_t floats = (size_t)(c->k_h * c->k_w) * (size_t)(c->c_in / c->groups);
    size_t out = ((size_t)(c->c_out / c->groups) + 15) / 16 * 16; /* whole vectors: Winograd's */
    return c->depthwise ? 0 : floats * out * sizeof(float);
}

void dd_conv_pack(const dd_run *run, int conv, bool backward, int thread) {
    dd_plan *plan = run->plan;
    const dd_conv *c = &plan->convs[conv];
    const float *weight = dd_store_data(run->binding->store, c->weight);
    float *packed = plan->packed + (backward ? c->packed_dx : c->packed);
    if (c->depthwise || (c->spread && !backward)) {
        pack_depthwise(c, weight, packed);
        return;
    }
    float *gathered = dd_scratch(run, thread);
    if (c->winograd && !backward) {
        dd_winograd_pack(plan->kernels, c, weight, gathered, packed);
        return;
    }
    if (!backward) {
        pack_taps(plan->kernels, c, &c->forward, weight, false, gathered, packed);
        return;
    }
    for (int i = 0; i < c->n_phases; i++)
        pack_taps(plan->kernels, c, &c->phases[i], weight, true, gathered,
                  packed + c->phases[i].packed);
}

/* ---- forward ------------------------------------------------------------------------------- */

bool dd_conv_pointwise(const dd_conv *c) {
    return c->k_h == 1 && c->k_w == 1 && c->stride == 1 && c->groups == 1 && c->pad_top == 0 &&
           c->pad_left == 0 && c->pad_bottom == 0 && c->pad_right == 0;
}

/* A 1×1 reads stored pixels where they lie. */
static bool reads_in_place(const dd_plan *plan, const dd_step *s, const dd_conv *c) {
    return dd_conv_pointwise(c) && dd_is_in_place(plan, s->x);
}

const float *dd_conv_bias(const dd_run *run, const dd_conv *c) {
    return c->bias >= 0 ? dd_store_data(run->binding->store, c->bias) : NULL;
}

static void run_in_place(const dd_run *run, const dd_step *s, const dd_conv *c, int64_t n,
                         int64_t y, int64_t rows) {
    const dd_pvalue *out = &run->plan->values[s->y];
    dd_sources sources;
    dd_gemm g = {.b = run->plan->packed + c->packed,
                 .c = dd_row(run, s->y, n, y),
                 .ldc = out->pitch,
                 .m = rows * c->ow,
                 .n = c->c_out,
                 .bias = dd_conv_bias(run, c),
                 .act = dd_product_act(s),
                 .act_first = s->act_first,
                 .n_end = c->c_out};
    dd_gemm_source(run, s->x, n, y, 0, &sources, &g);
    if (s->residual >= 0) {
        g.residual = dd_row(run, s->residual, n, y);
        g.ldr = run->plan->values[s->residual].pitch;
    }
    run->plan->kernels->gemm_f32(&g);
}

/* One output row of a depthwise convolution with dilated taps: every dilation-th pixel is a row of
 * an ordinary one, whose pixels lie that far apart. Arguments as conv_row's. */
static void spread_row(const dd_run *run, const dd_step *s, const dd_conv *c, const float *rows,
                       int64_t row_floats, int64_t n, int64_t y, float *to, int64_t pitch) {
    const float *taps[64];
    dd_depthwise d = {.rows = taps,
                      .pitch = (int64_t)c->dilation * c->c_in,
                      .k = c->k_h,
                      .stride = 1,
                      .c = c->c_in,
                      .w = run->plan->packed + c->packed,
                      .wpitch = dd_depthwise_pitch(c),
                      .bias = dd_conv_bias(run, c),
                      .act = s->act,
                      .y_pitch = pitch * c->dilation};
    for (int64_t x = 0; x < c->dilation && x < c->ow; x++) {
        for (int r = 0; r < c->k_h; r++)
            taps[r] = rows + r * c->dilation * row_floats + x * c->c_in;
        d.width = (c->ow - x + c->dilation - 1) / c->dilation;
        d.y = to + x * pitch;
        if (s->residual >= 0) {
            int64_t residual = run->plan->values[s->residual].pitch;
            d.residual = dd_row(run, s->residual, n, y) + x * residual;
            d.residual_pitch = residual * c->dilation;
        }
        run->plan->kernels->depthwise_f32(&d);
    }
}

/* One output row by matrix products, to `to`; `rows` is the padded source strip's row of tap 0. */
static void conv_row(const dd_run *run, const dd_step *s, const dd_conv *c, const float *rows,
                     int64_t row_floats, int64_t n, int64_t y, float *to, int64_t pitch) {
    int in = c->c_in / c->groups, o = c->c_out / c->groups;
    int taps = c->by_tap ? c->k_h * c->k_w : c->planar ? c->k_h * in : c->k_h;
    const float *a[256];
    size_t group = run->plan->kernels->gemm_f32_packed((int64_t)c->k_h * c->k_w * in, o);
    const float *bias = dd_conv_bias(run, c);
    for (int g = 0; g < c->groups; g++) {
        for (int t = 0; t < taps; t++)
            a[t] = c->by_tap ? rows + (t / c->k_w) * c->dilation * row_floats +
                                   (int64_t)(t % c->k_w) * c->dilation * c->c_in + g * in
                   : c->planar ? rows + t * (row_floats / in)
                               : rows + t * row_floats;
        dd_gemm m = {.a = a,
                     .lda = (int64_t)c->stride * (c->planar ? 1 : c->c_in),
                     .segments = taps,
                     .k = c->by_tap   ? in
                          : c->planar ? c->k_w
                                      : c->k_w * in,
                     .b = run->plan->packed + c->packed + (size_t)g * group,
                     .c = to + g * o,
                     .ldc = pitch,
                     .m = c->ow,
                     .n = o,
                     .bias = bias ? bias + g * o : NULL,
                     .act = dd_product_act(s),
                     .act_first = s->act_first,
                     .n_end = o};
        if (s->residual >= 0) {
            m.residual = dd_row(run, s->residual, n, y) + g * o;
            m.ldr = run->plan->values[s->residual].pitch;
        }
        run->plan->kernels->gemm_f32(&m);
    }
}

/* Batch sums of rows just computed, while they are in cache. */
static void add_sums(const dd_run *run, const dd_step *s, const float *y, int64_t pitch,
                     int64_t rows, int64_t slot) {
    const dd_norm *norm = &run->plan->norms[s->norm];
    int64_t width = run->plan->values[s->y].type.dims[2];
    double *sums = run->plan->sums + norm->sums + (size_t)slot * 2 * (size_t)norm->c;
    dd_channel_sums sum = {.x = y,
                           .pitch = pitch,
                           .row_pitch = width * pitch,
                           .width = width,
                           .rows = rows,
                           .c = norm->c,
                           .shift = dd_store_data(run->binding->store, norm->running_mean),
                           .sum = sums,
                           .squares = sums + norm->c};
    run->plan->kernels->channel_sums_f32(&sum);
}

static void conv_strip(const dd_run *run, const dd_step *s, const dd_conv *c, int64_t n, int64_t y,
                       int64_t rows, int64_t slot, float *scratch) {
    if (reads_in_place(run->plan, s, c)) {
        run_in_place(run, s, c, n, y, rows);
        return;
    }
    int64_t reach = (int64_t)(c->k_h - 1) * c->dilation + 1;
    int64_t source_rows = (rows - 1) * c->stride + reach;
    /* The padded row ends where the last tap of the last pixel does. */
    int64_t width = (c->ow - 1) * c->stride + (int64_t)(c->k_w - 1) * c->dilation + 1;
    int64_t right = width - c->pad_left - c->w;
    int64_t row_floats = (c->pad_left + c->w + (right > 0 ? right : 0)) * c->c_in;
    (c->planar ? dd_load_planes : dd_load_strip)(run, s->x, n, y * c->stride - c->pad_top,
                                                 source_rows, c->pad_left, right > 0 ? right : 0,
                                                 scratch);
    float *spare = scratch + source_rows * row_floats;
    for (int64_t i = 0; i < rows; i++) {
        int64_t pitch;
        float *to = dd_piece_begin(run, s->y, n, y + i, 0, spare, &pitch);
        (c->spread ? spread_row : conv_row)(run, s, c, scratch + i * c->stride * row_floats,
                                            row_floats, n, y + i, to, pitch);
        if (s->norm >= 0)
            add_sums(run, s, to, pitch, 1, slot);
        dd_piece_end(run, s->y, n, y + i, 0, c->ow, to);
    }
}

static void conv_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv];
    if (phase == 1) {
        dd_norm_finish(run, s->norm);
        return;
    }
    int64_t units = s->units(run->plan, s, 0, dd_threads());
    if (s->norm >= 0) {
        const dd_norm *norm = &run->plan->norms[s->norm];
        memset(run->plan->sums + norm->sums + (size_t)unit * 2 * (size_t)norm->c, 0,
               2 * (size_t)norm->c * sizeof(double));
    }
    int64_t row, end;
    dd_cut(c->n * c->oh, units, unit, &row, &end);
    if (s->by_pieces) {
        dd_conv_pieces(run, s, row, end, unit, dd_scratch(run, thread));
        return;
    }
    while (row < end) {
        int64_t n = row / c->oh, y = row % c->oh;
        int64_t rows = end - row < c->oh - y ? end - row : c->oh - y;
        rows = rows < s->strip ? rows : s->strip;
        conv_strip(run, s, c, n, y, rows, unit, dd_scratch(run, thread));
        row += rows;
    }
    dd_pieces_done(run, s->y);
}

static int64_t conv_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    const dd_conv *c = &plan->convs[s->conv];
    if (phase == 1)
        return 1;
    if (s->norm >= 0)
        return c->n * c->oh < DD_SLOTS ? c->n * c->oh : DD_SLOTS;
    int64_t rows = c->n * c->oh, units = threads == 1 ? 1 : (c->spread ? 1 : 4) * (int64_t)threads;
    return rows < units ? rows : units;
}

/* Rows at a time: as many as keep the source strip within `budget` bytes. Dilated taps reach far
 * beyond a strip, whose rows are loaded for each strip anew: fewer and higher ones. */
static int strip_rows(const dd_plan *plan, const dd_conv *c, int64_t budget) {
    if (plan->options.strip_rows > 0)
        return plan->options.strip_rows;
    int64_t row = (c->pad_left + c->w + c->pad_right + 4) * c->c_in * 4 * c->stride;
    int64_t rows = budget / row - c->k_h, reach = (int64_t)(c->k_h - 1) * c->dilation + 1;
    rows = c->spread && rows < 2 * reach ? 2 * reach : rows;
    return (int)(rows < 1 ? 1 : rows > c->oh ? c->oh : rows);
}

static size_t strip_bytes(const dd_conv *c, int rows) {
    int64_t source = (int64_t)(rows - 1) * c->stride + (int64_t)(c->k_h - 1) * c->dilation + 1;
    int64_t width = (c->ow - 1) * c->stride + (int64_t)(c->k_w - 1) * c->dilation + 1;
    int64_t least = c->pad_left + c->w;
    width = width > least ? width : least;
    return (size_t)(source * width * c->c_in) * sizeof(float);
}

/* Follows the convolution's result through what its store can do. */
void dd_conv_epilogue(dd_plan *plan, dd_step *s, const dd_conv *c) {
    const dd_graph *g = plan->graph;
    bool acted = false, act_first = !plan->graph->training && !c->winograd;
    bool depthwise = c->depthwise || c->spread;
    while (plan->values[s->y].pending == DD_STORED && !dd_is_output(plan, s->y)) {
        int reader = dd_sole_reader(plan, s->y);
        if (reader < 0 || plan->taken[reader] || plan->values[g->nodes[reader].out[0]].pending)
            return;
        const dd_node *node = &g->nodes[reader];
        if (node->op == &dd_op_unary && !node->backward && !acted) {
            const dd_unary_params *u = node->params;
            dd_act act = {(dd_unary)u->kind, (float)u->a, (float)u->b};
            if (s->residual >= 0 && depthwise)
                return;
            acted = true;
            *(s->residual >= 0 ? &s->act_after : &s->act) = act;
        } else if (node->op == &dd_op_binary && s->residual < 0 &&
                   (!acted || depthwise || act_first) &&
                   ((const dd_binary_params *)node->params)->kind == DD_ADD) {
            int other = node->in[0] == s->y ? node->in[1] : node->in[0];
            if (other == s->y || plan->values[other].pending ||
                !dd_type_equal(&plan->values[other].type, &plan->values[s->y].type))
                return;
            s->residual = other;
            s->act_first = acted && !depthwise;
            dd_step_reads(plan, s, other);
        } else {
            return;
        }
        dd_step_node(plan, s, reader);
        s->y = node->out[0];
    }
}

void dd_conv_take_sums(dd_plan *plan, dd_step *s) {
    for (int i = 0; i < plan->n_readers[s->y]; i++) {
        int reader = plan->readers[s->y][i], norm = plan->norm_of[reader];
        const dd_node *node = &plan->graph->nodes[reader];
        if (node->op != &dd_op_batch_norm || norm < 0 || !plan->norms[norm].batch ||
            plan->taken[reader] || !dd_pattern_on(plan, DD_PATTERN_norm))
            continue;
        s->norm = norm;
        s->n_phases = 2;
        dd_step_node(plan, s, reader);
        return;
    }
}

void dd_conv_use(dd_plan *plan, dd_conv *c) {
    c->uses_forward = true;
    c->packed = plan->packed_size;
    plan->packed_size += (c->packed_floats + 15) / 16 * 16;
}

dd_status dd_match_conv(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (n->op != &dd_op_conv || n->backward || plan->conv_of[node] < 0)
        return DD_OK;
    dd_conv *c = &plan->convs[plan->conv_of[node]];
    if ((c->by_tap ? c->k_h * c->k_w : c->k_h) > 64)
        return DD_OK;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "conv", &s));
    s->conv = plan->conv_of[node];
    s->run = conv_run;
    s->units = conv_units;
    s->n_phases = 1;
    s->x = n->in[0];
    s->y = n->out[0];
    dd_step_node(plan, s, node);
    dd_step_reads(plan, s, s->x);
    dd_conv_epilogue(plan, s, c);
    dd_conv_take_sums(plan, s);
    dd_step_writes(s, s->y);
    /* In training a stored map may turn out to be no floats. */
    s->by_pieces = dd_conv_by_pieces(c) && (plan->graph->training || !reads_in_place(plan, s, c));
    s->halves = true;
    s->strip =
        reads_in_place(plan, s, c) && s->norm < 0 ? (int)c->oh : strip_rows(plan, c, 192 << 10);
    if (plan->options.strip_rows > 0)
        s->strip = plan->options.strip_rows;
    s->scratch = strip_bytes(c, s->strip < c->oh ? s->strip : (int)c->oh) +
                 (size_t)dd_piece_floats(plan, s->y, c->ow) * sizeof(float);
    if (s->by_pieces)
        s->scratch = dd_conv_pieces_scratch(plan, s, c);
    dd_conv_use(plan, c);
    *matched = true;
    return DD_OK;
}
