/* See describe.h. */
#include "ops/describe.h"

#include <inttypes.h>
#include <stdio.h>

#include "ops/node.h"

const char *const dd_unary_names[] = {
    "identity", "relu",      "clip",       "leaky_relu", "hard_sigmoid", "hard_swish", "sigmoid",
    "silu",     "mish",      "elu",        "softplus",   "tanh",         "gelu",       "erf",
    "exp",      "log",       "sqrt",       "abs",        "neg",          "ramp",       "selu",
    "softsign", "gelu_tanh", "reciprocal", "floor",      "ceil",         "round",      "sign",
    "sin",      "cos",       NULL};

_Static_assert(sizeof dd_unary_names / sizeof *dd_unary_names == DD_UNARIES + 1,
               "a name for each dd_unary");

/* Missing comes first: an absent input has no dtype worth naming. */
dd_status dd_need_f32(const char *who, const char *what, const dd_type *t) {
    if (t->rank < 0)
        return dd_fail(DD_EVALUE, "%s: %s is missing", who, what);
    if (t->dtype != DD_F32)
        return dd_fail(DD_ETYPE, "%s: %s is %s, f32 is needed", who, what, dd_dtype_name(t->dtype));
    return DD_OK;
}

dd_status dd_need_rank(const char *who, const char *what, const dd_type *t, int low, int high) {
    DD_TRY(dd_need_f32(who, what, t));
    if (t->rank >= low && t->rank <= high)
        return DD_OK;
    char text[192];
    (void)dd_type_text(t, text, sizeof text);
    return low == high ? dd_fail(DD_EVALUE, "%s: %s is %s, rank %d is needed", who, what, text, low)
                       : dd_fail(DD_EVALUE, "%s: %s is %s, rank %d to %d is needed", who, what,
                                 text, low, high);
}

dd_status dd_need_vector(const char *who, const char *what, const dd_type *t, int64_t n) {
    dd_type want = {.dtype = DD_F32, .rank = 1, .dims = {n}};
    return dd_need_type(who, what, t, &want);
}

/* A wrong dtype is a TypeError in Python, a wrong shape a ValueError. */
dd_status dd_need_type(const char *who, const char *what, const dd_type *t, const dd_type *want) {
    char have[192], need[192];
    if (t->rank < 0)
        return dd_fail(DD_EVALUE, "%s: %s is missing", who, what);
    if (dd_type_equal(t, want))
        return DD_OK;
    return dd_fail(t->dtype == want->dtype ? DD_EVALUE : DD_ETYPE, "%s: %s is %s, %s is needed",
                   who, what, dd_type_text(t, have, sizeof have),
                   dd_type_text(want, need, sizeof need));
}

dd_status dd_need_axis(const char *who, int64_t axis, int rank, int *at) {
    if (axis < -rank || axis >= rank)
        return dd_fail(DD_EVALUE, "%s: axis is %" PRId64 ", %d to %d is needed", who, axis, -rank,
                       rank - 1);
    *at = (int)(axis < 0 ? axis + rank : axis);
    return DD_OK;
}

/* The upper bound keeps every product of two attributes and a size below 2^63. */
dd_status dd_need_list(const char *who, const char *what, const dd_ints *list, int n, int64_t low) {
    if (list->n != n)
        return dd_fail(DD_EVALUE, "%s: %s has %" PRId64 " items, %d are needed", who, what, list->n,
                       n);
    for (int i = 0; i < n; i++)
        if (list->v[i] < low || list->v[i] > INT32_MAX)
            return dd_fail(DD_EVALUE, "%s: %s has %" PRId64 ", at least %" PRId64 " is needed", who,
                           what, list->v[i], low);
    return DD_OK;
}

dd_status dd_need_window(const char *who, const dd_ints *stride, const dd_ints *pads,
                         const dd_ints *dilation, int64_t groups) {
    if (stride->n)
        DD_TRY(dd_need_list(who, "stride", stride, 2, 1));
    if (pads->n)
        DD_TRY(dd_need_list(who, "pads", pads, 4, 0));
    if (dilation->n)
        DD_TRY(dd_need_list(who, "dilation", dilation, 2, 1));
    if (groups < 1)
        return dd_fail(DD_EVALUE, "%s: groups is %" PRId64 ", at least 1 is needed", who, groups);
    return DD_OK;
}

dd_status dd_infer_same(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    if (in[0].rank < 0)
        return dd_fail(DD_EVALUE, "%s: x is missing", node->op->name);
    out[0] = in[0];
    *n_out = 1;
    return DD_OK;
}

const char *dd_grad_name(char text[DD_MAX_NAME + 1], const char *prefix, const char *name) {
    (void)snprintf(text, DD_MAX_NAME + 1, "%s:%s", prefix, name);
    return text;
}
