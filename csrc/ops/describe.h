/* What an operator's file describes itself with: rows of the field table, checks for `infer`, and
 * tables of samples. */
#ifndef DD_OPS_DESCRIBE_H
#define DD_OPS_DESCRIBE_H

#include <stddef.h>
#include <string.h>

#include "ops/op.h"
#include "ops/params.h"

/* ---- fields: DD_INT(dd_conv_params, groups, 1) is a row for the member `groups` ------------ */

#define DD_INT(s, m, initial)                                                                      \
    { #m, DD_FIELD_INT, offsetof(s, m), initial, NULL }
#define DD_FLOAT(s, m, initial)                                                                    \
    { #m, DD_FIELD_FLOAT, offsetof(s, m), initial, NULL }
#define DD_BOOL(s, m, initial)                                                                     \
    { #m, DD_FIELD_BOOL, offsetof(s, m), initial, NULL }
#define DD_ENUM(s, m, initial, names)                                                              \
    { #m, DD_FIELD_ENUM, offsetof(s, m), initial, names }
#define DD_INTS(s, m)                                                                              \
    { #m, DD_FIELD_INTS, offsetof(s, m), 0, NULL }
#define DD_FLOATS(s, m)                                                                            \
    { #m, DD_FIELD_FLOATS, offsetof(s, m), 0, NULL }
#define DD_END                                                                                     \
    { NULL, DD_FIELD_INT, 0, 0, NULL }

extern const char *const dd_unary_names[]; /* by dd_unary, NULL-terminated */

/* ---- checks for infer: a message "who: what came, what was needed" ------------------------- */

/* `what` names the input in messages. An absent input (rank -1) fails each of these. */
dd_status dd_need_f32(const char *who, const char *what, const dd_type *t);
/* float32 of rank `low` to `high`. */
dd_status dd_need_rank(const char *who, const char *what, const dd_type *t, int low, int high);
/* A float32 vector of n elements. */
dd_status dd_need_vector(const char *who, const char *what, const dd_type *t, int64_t n);
/* `t` has exactly the type `want`. */
dd_status dd_need_type(const char *who, const char *what, const dd_type *t, const dd_type *want);

/* *at = `axis` as 0..rank-1; negative ones count from the end. */
dd_status dd_need_axis(const char *who, int64_t axis, int rank, int *at);

/* An attribute list of `n` items, each at least `low` and at most 2^31 - 1; an empty one fails. */
dd_status dd_need_list(const char *who, const char *what, const dd_ints *list, int n, int64_t low);

/* Attributes of a convolution of either direction, each list empty or of its length. */
dd_status dd_need_window(const char *who, const dd_ints *stride, const dd_ints *pads,
                         const dd_ints *dilation, int64_t groups);

/* The item of a list, or `otherwise` where the list is empty. */
static inline int64_t dd_item(const dd_ints *list, int i, int64_t otherwise) {
    return list->n ? list->v[i] : otherwise;
}

static inline bool dd_present(const struct dd_type *t) {
    return t->rank >= 0;
}

/* Infer of operators whose single output has the first input's type, of any dtype. */
dd_status dd_infer_same(const struct dd_node *node, const dd_type *in, dd_type *out, int *n_out);

/* "prefix:name", cut to what a node's name may hold, into `text`; returned. For op->grad. */
const char *dd_grad_name(char text[DD_MAX_NAME + 1], const char *prefix, const char *name);

/* ---- samples ------------------------------------------------------------------------------- */

/* Static tables: `{.p = {...}, .n = 2, .in = {F32(1, 3, 3, 8), F32(8)}}`; SAMPLES(cases, ...) is
 * the body of a `sample` function over such a table. */
#define DD_COUNT(...) ((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))
#define F32(...)                                                                                   \
    {                                                                                              \
        DD_F32, DD_COUNT(__VA_ARGS__), {                                                           \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define U8(...)                                                                                    \
    {                                                                                              \
        DD_U8, DD_COUNT(__VA_ARGS__), {                                                            \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define S8(...)                                                                                    \
    {                                                                                              \
        DD_S8, DD_COUNT(__VA_ARGS__), {                                                            \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define S32(...)                                                                                   \
    {                                                                                              \
        DD_S32, DD_COUNT(__VA_ARGS__), {                                                           \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define ABSENT                                                                                     \
    {                                                                                              \
        DD_F32, -1, {                                                                              \
            0                                                                                      \
        }                                                                                          \
    }
#define INTS(...)                                                                                  \
    {                                                                                              \
        DD_COUNT(__VA_ARGS__), {                                                                   \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define FLOATS(...)                                                                                \
    {                                                                                              \
        (int)(sizeof((double[]){__VA_ARGS__}) / sizeof(double)), {                                 \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }

#define SAMPLES(cases, i, params, in_types, n_in)                                                  \
    if ((i) < 0 || (size_t)(i) >= sizeof(cases) / sizeof *(cases))                                 \
        return 0;                                                                                  \
    memcpy(params, &(cases)[i].p, sizeof(cases)[i].p);                                             \
    memcpy(in_types, (cases)[i].in, (size_t)(cases)[i].n * sizeof(dd_type));                       \
    *(n_in) = (cases)[i].n;                                                                        \
    return 1

#endif
