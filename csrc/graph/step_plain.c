/* Plain steps: a node that no pattern took runs its operator's own C, as one unit; and stored
 * gradients of entries are added into the flat gradient. */
#include "graph/layout.h"

#include <string.h>

#include "base/memory.h"

enum { MAX_ARRAYS = 3 * DD_MANY + 2 * DD_MAX_SAVED };

static bool contiguous(const dd_pvalue *v) {
    int64_t n = v->type.rank >= 2 ? v->type.dims[0] : 1;
    return n <= 1 || v->image * n == dd_type_rows(&v->type) * v->pitch;
}

static size_t dense_bytes(const dd_pvalue *v) {
    size_t bytes = (size_t)dd_type_count(&v->type) * dd_dtype_bytes(v->type.dtype);
    return (bytes + DD_ALIGN - 1) / DD_ALIGN * DD_ALIGN;
}

/* Images that lie apart, to or from one dense block. */
static void move_images(const dd_pvalue *v, char *strided, char *dense, bool gather) {
    size_t size = dd_dtype_bytes(v->type.dtype);
    int64_t n = v->type.dims[0], rows = dd_type_rows(&v->type) / n, c = dd_type_last(&v->type);
    for (int64_t i = 0; i < n; i++)
        for (int64_t row = 0; row < rows; row++) {
            char *a = strided + (size_t)(i * v->image + row * v->pitch) * size;
            char *b = dense + (size_t)((i * rows + row) * c) * size;
            memcpy(gather ? b : a, gather ? a : b, (size_t)c * size);
        }
}

typedef struct arrays {
    dd_array all[MAX_ARRAYS];
    char *scratch;
} arrays;

/* The array of a value; one whose images lie apart goes through scratch. */
static dd_array array_of(const dd_run *run, int value, bool input, arrays *a) {
    if (value < 0)
        return (dd_array){.type = {.rank = -1}};
    const dd_pvalue *v = &run->plan->values[value];
    dd_array array = {run->plan->data[value], v->type, v->pitch};
    if (!array.data || contiguous(v))
        return array;
    array.data = a->scratch;
    array.pitch = dd_type_last(&v->type);
    if (input)
        move_images(v, run->plan->data[value], a->scratch, true);
    a->scratch += dense_bytes(v);
    return array;
}

static void write_back(const dd_run *run, int value, const dd_array *array) {
    if (value < 0 || !array->data || array->data == run->plan->data[value])
        return;
    move_images(&run->plan->values[value], run->plan->data[value], array->data, false);
}

static void plain_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    (void)phase;
    (void)unit;
    const dd_node *n = &run->plan->graph->nodes[s->nodes[0]];
    arrays a;
    size_t aligned = ((size_t)(char *)dd_scratch(run, thread) + DD_ALIGN - 1) / DD_ALIGN * DD_ALIGN;
    a.scratch = (char *)aligned + (s->scratch - s->strided_bytes) / DD_ALIGN * DD_ALIGN;
    for (int i = 0; i < n->n_in; i++)
        a.all[i] = array_of(run, n->in[i], true, &a);
    for (int i = 0; i < n->n_out; i++)
        a.all[n->n_in + i] = array_of(run, n->out[i], false, &a);
    dd_op_args args = {.node = n,
                       .params = n->params,
                       .scratch = (char *)aligned,
                       .seed = run->binding->seed,
                       .step = run->binding->step,
                       .node_index = s->nodes[0],
                       .training = n->training || n->backward};
    dd_status status;
    if (n->backward) {
        args.n_in = n->forward_in;
        args.n_out = n->forward_out;
        args.in = a.all;
        args.out = a.all + n->forward_in;
        args.saved = args.out + n->forward_out;
        args.dout = args.saved + n->n_saved;
        args.din = a.all + n->n_in;
        status = n->op->backward(&args);
    } else {
        args.n_in = n->n_in;
        args.n_out = n->n_out - n->n_saved;
        args.in = a.all;
        args.out = a.all + n->n_in;
        args.saved = args.out + args.n_out;
        status = n->op->forward(&args);
    }
    for (int i = 0; i < n->n_out; i++)
        write_back(run, n->out[i], &a.all[n->n_in + i]);
    if (status != DD_OK)
        dd_run_fail(run, status);
}

static int64_t one_unit(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    (void)plan;
    (void)s;
    (void)phase;
    (void)threads;
    return 1;
}

dd_status dd_plain_step(dd_plan *plan, int node) {
    const dd_node *n = &plan->graph->nodes[node];
    dd_type in[MAX_ARRAYS];
    dd_step *s;
    DD_TRY(dd_step_new(plan, n->op->name, &s));
    s->run = plain_run;
    s->units = one_unit;
    s->plain = true;
    dd_step_node(plan, s, node);
    for (int i = 0; i < n->n_in; i++) {
        in[i] = n->in[i] >= 0 ? plan->values[n->in[i]].type : (dd_type){.rank = -1};
        if (n->in[i] < 0)
            continue;
        s->strided_bytes +=
            contiguous(&plan->values[n->in[i]]) ? 0 : dense_bytes(&plan->values[n->in[i]]);
    }
    for (int i = 0; i < n->n_out; i++) {
        if (n->out[i] < 0)
            continue;
        s->strided_bytes +=
            contiguous(&plan->values[n->out[i]]) ? 0 : dense_bytes(&plan->values[n->out[i]]);
    }
    s->scratch = n->op->scratch ? (n->op->scratch(n, in) + DD_ALIGN - 1) / DD_ALIGN * DD_ALIGN : 0;
    s->scratch += s->strided_bytes + 2 * DD_ALIGN;
    return DD_OK;
}

/* ---- gradients that a step stored ---------------------------------------------------------- */

static void add_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    (void)phase;
    (void)unit;
    (void)thread;
    const dd_pvalue *v = &run->plan->values[s->x];
    const dd_entry *entry = &run->binding->store->entries[s->dw_entry];
    float *to = run->binding->gradient + entry->offset;
    const float *from = run->plan->data[s->x];
    int64_t rows = dd_type_rows(&v->type), c = dd_type_last(&v->type);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < c; i++)
            to[row * c + i] += from[row * v->pitch + i];
}

/* Whether some step leaves the value in memory, rather than adding it to the gradient itself. */
static bool is_stored(const dd_plan *plan, int value) {
    const dd_pvalue *v = &plan->values[value];
    if (v->root != value || v->place != DD_AT_NONE)
        return true;
    for (size_t i = 0; i < plan->n_steps; i++) {
        const dd_step *s = &plan->steps[i];
        for (int k = 0; k < s->n_writes; k++)
            if (s->writes[k] == value)
                return true;
        if (s->plain && plan->graph->values[value].producer == s->nodes[0])
            return true;
    }
    return false;
}

dd_status dd_gradient_steps(dd_plan *plan) {
    const dd_graph *g = plan->graph;
    for (size_t i = 0; i < g->n_gradients; i++) {
        dd_step *s;
        if (!is_stored(plan, g->gradients[i].value))
            continue;
        DD_TRY(dd_step_new(plan, "gradient", &s));
        s->run = add_run;
        s->units = one_unit;
        s->at = (int)g->n_nodes;
        s->backward = true;
        s->x = g->gradients[i].value;
        s->dw_entry = g->gradients[i].entry;
        s->reads[s->n_reads++] = s->x;
    }
    return DD_OK;
}
