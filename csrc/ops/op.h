/* The operator's descriptor: every rule that a pass needs to know of an operator.
 *
 * ops.def is THE list; row `DD_OP(conv)` declares `const dd_op dd_op_conv`, defined in the file of
 * its family (conv.c, norm.c, ...). No pass compares operator names, except step patterns and
 * ONNX tables. The `forward` and `backward` here are plain scalar C on any pitch: the oracle of
 * every test; speed lives in the planner's steps. */
#ifndef DD_OPS_OP_H
#define DD_OPS_OP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/tensor.h"

#define DD_MANY 64 /* capacity of an operator with any number of inputs or outputs */
#define DD_MAX_SAVED 4
#define DD_MAX_LIST 8 /* capacity of a list attribute */

struct dd_graph;
struct dd_node;

/* ---- attributes: a plain struct of fixed size; a table tells its fields -------------------- */

typedef enum dd_field_kind {
    DD_FIELD_INT,    /* int64_t */
    DD_FIELD_FLOAT,  /* double */
    DD_FIELD_BOOL,   /* int64_t, 0 or 1 */
    DD_FIELD_ENUM,   /* int64_t, an index into `names` */
    DD_FIELD_INTS,   /* dd_ints */
    DD_FIELD_FLOATS, /* dd_floats */
} dd_field_kind;

typedef struct dd_ints {
    int64_t n, v[DD_MAX_LIST];
} dd_ints;

typedef struct dd_floats {
    int64_t n;
    double v[DD_MAX_LIST];
} dd_floats;

typedef struct dd_field {
    const char *name;
    dd_field_kind kind;
    size_t offset;
    double initial;           /* INT, FLOAT, BOOL, ENUM; a list's initial value is empty */
    const char *const *names; /* ENUM: NULL-terminated */
} dd_field;

/* ---- the call of an implementation --------------------------------------------------------- */

typedef struct dd_op_args {
    const struct dd_node *node;
    const void *params;
    int n_in, n_out;
    const dd_array *in;   /* data NULL: absent */
    dd_array *out;        /* forward writes; backward reads those that backward_uses names */
    dd_array *saved;      /* forward in training writes, backward reads; data NULL in inference */
    const dd_array *dout; /* backward: gradients of the outputs; data NULL where none arrives */
    dd_array *din;        /* backward overwrites those whose data is not NULL */
    void *scratch;        /* scratch() bytes */
    uint64_t seed, step;  /* RANDOM operators draw by (seed, step, node's index) */
    int node_index;
    bool training;
} dd_op_args;

/* ---- channel groups for pruning ------------------------------------------------------------ */

typedef struct dd_channel_ids dd_channel_ids; /* graph/prune owns it; see ops/channels.h */

/* ---- flags --------------------------------------------------------------------------------- */

enum {
    DD_OP_STATE = 1u << 0, /* writes inputs of role state in training (batch norm) */
    DD_OP_RANDOM = 1u << 1,
    DD_OP_INPLACE = 1u << 2,    /* out[0] may share in[0]'s buffer */
    DD_OP_VIEW = 1u << 3,       /* out[0] is in[0]'s dense bytes with another shape */
    DD_OP_TRAIN_ONLY = 1u << 4, /* identity in inference (dropout, fake_quant keeps its rounding) */
    DD_OP_NO_GRAD = 1u << 5,    /* no gradient flows through (arg_max, stop_gradient, detect) */
};

/* backward_uses: which data the plain backward reads; the rest is there for its type only. */
#define DD_USES_IN(i) (1u << (i)) /* i < 8 */
#define DD_USES_ALL_IN 0xffu
#define DD_USES_OUT(i) (1u << (8 + (i))) /* i < 8 */

enum dd_qrule { DD_Q_FLOAT = 0, DD_Q_COMPUTE, DD_Q_TIE, DD_Q_TABLE, DD_Q_REQUANT };

typedef struct dd_range {
    int64_t begin, end;
} dd_range;

typedef struct dd_op {
    const char *name, *doc;
    int version;
    int min_in, max_in; /* DD_MANY: any number */
    int n_outputs;      /* 0: one; DD_MANY: as many as the node asks for (split) */
    int n_saved;        /* how many types `saved` tells, whatever the attributes */
    size_t params_size;
    const dd_field *fields; /* ends with name NULL; NULL: no attributes */
    uint32_t shape_inputs;  /* bit i: input i is read for its type only (resize's `like`) */
    uint32_t backward_uses, flags;
    /* Types of the outputs from those of the inputs (rank -1: absent); checks everything once:
     * "conv: weight has 32 input channels, x has 24". */
    dd_status (*infer)(const struct dd_node *, const dd_type *in, dd_type *out, int *n_out);
    /* Types of what forward keeps for backward in training; NULL: nothing. */
    dd_status (*saved)(const struct dd_node *, const dd_type *in, dd_type *saved, int *n);
    size_t (*scratch)(const struct dd_node *, const dd_type *in); /* NULL: none */
    dd_status (*forward)(const dd_op_args *),
        (*backward)(const dd_op_args *); /* only index data can fail */
    /* Appends gradient nodes by itself (conv, batch_norm, unary, binary); NULL: one backward node,
     * or no gradient where backward is NULL too. See ops/grad.h. */
    dd_status (*grad)(struct dd_graph *, int node, const int *dout, int *din);
    /* Rows (axis 1) of input `input` that output rows `out` need, clipped to the map; NULL: needs
     * the whole map. */
    dd_status (*window)(const struct dd_node *, const dd_type *in, dd_range out, int input,
                        dd_range *rows);
    void (*channels)(const struct dd_node *, dd_channel_ids *); /* NULL: locks */
    enum dd_qrule quant;
    int64_t (*macs)(const struct dd_node *, const dd_type *in); /* NULL: 0 */
    /* The i-th test case: attributes and input types; 0 after the last. Parameters are inputs here.
     */
    int (*sample)(int i, void *params, dd_type *in, int *n_in);
} dd_op;

#define DD_OP(name) extern const dd_op dd_op_##name;
#include "ops/ops.def"
#undef DD_OP

/* All operators in the order of ops.def; *n of them. */
const dd_op *const *dd_ops(int *n);
const dd_op *dd_op_find(const char *name); /* NULL where there is none */

/* Fills `params` (params_size bytes) with the fields' initial values. */
void dd_op_params_init(const dd_op *op, void *params);

#endif
