/* What a plan's steps stand for, and how long they took: the figures of a profile. */
#include "graph/steps.h"

static int64_t value_traffic(const dd_plan *plan, int value) {
    const dd_type *t = &plan->values[value].type;
    return dd_type_count(t) * (int64_t)dd_dtype_bytes(t->dtype);
}

/* What a plain step reads and writes; its lists may be empty. */
static int64_t plain_bytes(const dd_plan *plan, const dd_node *n) {
    int64_t bytes = 0;
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] >= 0 && dd_reads_data(n, k))
            bytes += value_traffic(plan, n->in[k]);
    for (int k = 0; k < n->n_out; k++)
        if (n->out[k] >= 0)
            bytes += value_traffic(plan, n->out[k]);
    return bytes;
}

/* Bytes of a node's weights and of the gradients that it adds to the flat one: no step lists
 * entries among its values. */
static int64_t entry_bytes(const dd_plan *plan, const dd_node *n) {
    int64_t bytes = 0;
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] >= 0 && plan->values[n->in[k]].place == DD_AT_ENTRY && dd_reads_data(n, k))
            bytes += value_traffic(plan, n->in[k]);
    for (int k = 0; k < n->n_out; k++)
        if (n->out[k] >= 0 && dd_gradient_entry(plan, n->out[k]) >= 0)
            bytes += value_traffic(plan, n->out[k]);
    return bytes;
}

/* An opaque backward node counts twice its forward, as in dd_graph_macs(). */
void dd_count_work(dd_plan *plan) {
    dd_type in[3 * DD_MANY + DD_MAX_SAVED];
    for (size_t i = 0; i < plan->n_steps; i++) {
        dd_step *s = &plan->steps[i];
        for (int k = 0; k < s->n_nodes; k++) {
            const dd_node *n = &plan->graph->nodes[s->nodes[k]];
            for (int j = 0; j < n->n_in; j++) {
                in[j] = n->in[j] >= 0 ? plan->values[n->in[j]].type : (dd_type){.rank = -1};
                if (in[j].dtype == DD_BF16) /* so stored; operators know floats */
                    in[j].dtype = DD_F32;
            }
            if (n->op->macs)
                s->macs += n->op->macs(n, in) * (n->backward ? 2 : 1);
            s->bytes += s->plain ? plain_bytes(plan, n) : entry_bytes(plan, n);
        }
        for (int k = 0; k < s->n_reads && !s->plain; k++)
            s->bytes += value_traffic(plan, s->reads[k]);
        for (int k = 0; k < s->n_writes && !s->plain; k++)
            s->bytes += value_traffic(plan, s->writes[k]);
    }
}

void dd_plan_profile(dd_plan *plan, bool on) {
    plan->profile = on;
}

int dd_plan_steps(const dd_plan *plan) {
    return (int)plan->n_steps;
}

/* The type of the last value that a step stores. */
static dd_type made_by(const dd_plan *plan, const dd_step *s) {
    if (s->n_writes)
        return plan->values[s->writes[s->n_writes - 1]].type;
    const dd_node *n = s->n_nodes ? &plan->graph->nodes[s->nodes[s->n_nodes - 1]] : NULL;
    if (s->plain && n && n->n_out > 0 && n->out[0] >= 0)
        return plan->values[n->out[0]].type;
    return (dd_type){.rank = -1};
}

dd_step_report dd_plan_step(const dd_plan *plan, int step) {
    const dd_step *s = &plan->steps[step];
    return (dd_step_report){.pattern = s->pattern,
                            .name = s->n_nodes ? plan->graph->nodes[s->nodes[0]].name : "",
                            .nodes = s->nodes,
                            .n_nodes = s->n_nodes,
                            .type = made_by(plan, s),
                            .milliseconds = s->seconds * 1e3,
                            .macs = s->macs,
                            .bytes = s->bytes,
                            .backward = s->backward};
}
