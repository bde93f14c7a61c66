/* The store stage: pieces of a value on their way to memory.
 *
 * A map that no cache can hold until it is read again is computed in scratch and copied past the
 * caches: a plain store would read every line first, and push out what is of use.
 *
 * In mixed precision the maps between steps, and their gradients, are bfloat16 in memory: half the
 * traffic, which is what bounds training. Steps still compute with floats: the load stage widens,
 * the store stage rounds to nearest even. Sums for batch norms are made of the floats before they
 * are rounded. Weights, their gradients, statistics and all that the caller sees stay float32. */
#include "graph/steps.h"

#include <string.h>

/* Bytes of a map from which on it goes past the caches. */
enum { STREAM_BYTES = 8 << 20 };

static int64_t bytes_of(const dd_plan *plan, int value) {
    const dd_pvalue *v = &plan->values[value];
    return v->type.dims[0] * v->image * (int64_t)dd_dtype_bytes(v->type.dtype);
}

bool dd_is_streamed(const dd_plan *plan, int value) {
    const dd_pvalue *v = &plan->values[value];
    return plan->graph->training && v->root == value && v->pending == DD_STORED &&
           v->type.rank == 4 && bytes_of(plan, value) >= STREAM_BYTES;
}

bool dd_is_half(const dd_plan *plan, int value) {
    return plan->values[value].type.dtype == DD_BF16;
}

bool dd_is_staged(const dd_plan *plan, int value) {
    return dd_is_half(plan, value) || dd_is_streamed(plan, value);
}

int64_t dd_piece_floats(const dd_plan *plan, int value, int64_t pixels) {
    bool may = plan->options.bf16 || dd_is_streamed(plan, value);
    return may ? (pixels * plan->values[value].pitch + 15) / 16 * 16 : 0;
}

int64_t dd_load_floats(const dd_plan *plan, int value, int64_t pixels) {
    bool may = plan->options.bf16 || !dd_is_stored(plan, value);
    return may ? (pixels * dd_type_last(&plan->values[value].type) + 15) / 16 * 16 : 0;
}

float *dd_piece_begin(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, float *scratch,
                      int64_t *pitch) {
    *pitch = run->plan->values[value].pitch;
    return dd_is_staged(run->plan, value) ? scratch : dd_pixels(run, value, n, y, x);
}

void dd_piece_end(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t pixels,
                  const float *piece) {
    const dd_plan *plan = run->plan;
    void *to = dd_pixels(run, value, n, y, x);
    /* Pad lanes of a buffer of its own may hold anything. */
    int64_t floats = pixels * plan->values[value].pitch;
    if (dd_is_half(plan, value))
        plan->kernels->f32_to_bf16(piece, to, floats, dd_is_streamed(plan, value));
    else if (piece != to)
        plan->kernels->stream_f32(piece, to, floats);
}

void dd_store_pixels(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t pixels,
                     const float *from, int64_t pitch) {
    const dd_plan *plan = run->plan;
    const dd_pvalue *v = &plan->values[value];
    int64_t c = dd_type_last(&v->type);
    if (!dd_is_half(plan, value)) {
        float *to = dd_pixels(run, value, n, y, x);
        if (to != from)
            plan->kernels->copy_f32(from, pitch, to, v->pitch, pixels, c);
        return;
    }
    bool dense = pitch == c && v->pitch == c;
    for (int64_t i = 0; i < (dense ? 1 : pixels); i++)
        plan->kernels->f32_to_bf16(from + i * pitch, dd_pixels(run, value, n, y, x + i),
                                   dense ? pixels * c : c, false);
}

void dd_pieces_done(const dd_run *run, int value) {
    if (value >= 0 && dd_is_streamed(run->plan, value))
        run->plan->kernels->stream_f32(NULL, NULL, 0);
}

/* ---- which maps are bfloat16 --------------------------------------------------------------- */

/* What a step reads as floats, whatever its other operands are. */
static bool takes_only_floats(const dd_step *s, int value) {
    if (!s->halves || s->residual == value || s->dx_residual == value)
        return true;
    for (int i = 0; i < s->n_terms; i++)
        if (s->terms[i].value == value && s->terms[i].upsample > 1)
            return true;
    return false;
}

static bool touches(const dd_plan *plan, const dd_step *s, int value) {
    for (int i = 0; i < s->n_reads; i++)
        if (plan->values[s->reads[i]].root == value)
            return true;
    for (int i = 0; i < s->n_writes; i++)
        if (plan->values[s->writes[i]].root == value)
            return true;
    for (int k = 0; k < s->n_nodes && !s->halves; k++) {
        const dd_node *n = &plan->graph->nodes[s->nodes[k]];
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i] >= 0 && plan->values[n->in[i]].root == value)
                return true;
        for (int i = 0; i < n->n_out; i++)
            if (n->out[i] >= 0 && plan->values[n->out[i]].root == value)
                return true;
    }
    return false;
}

static bool may_be_half(const dd_plan *plan, int value) {
    const dd_pvalue *v = &plan->values[value];
    if ((size_t)value >= plan->graph->n_values || v->root != value || v->pending != DD_STORED ||
        v->place != DD_AT_NONE || v->type.rank != 4 || v->type.dtype != DD_F32 || v->dense ||
        plan->graph->values[value].kind != DD_VALUE_NODE || dd_is_output(plan, value))
        return false;
    for (size_t i = 0; i < plan->n_values; i++) /* windows */
        if (i != (size_t)value && plan->values[i].root == value)
            return false;
    for (size_t i = 0; i < plan->n_steps; i++)
        if (touches(plan, &plan->steps[i], value) && takes_only_floats(&plan->steps[i], value))
            return false;
    return true;
}

void dd_choose_halves(dd_plan *plan) {
    if (!plan->options.bf16 || !plan->graph->training)
        return;
    for (size_t i = 0; i < plan->n_values; i++)
        if (may_be_half(plan, (int)i))
            plan->values[i].type.dtype = DD_BF16;
}
