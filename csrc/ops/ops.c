/* The operator table: ops.def as an array. */
#include <string.h>

#include "ops/op.h"

static const dd_op *const all[] = {
#define DD_OP(name) &dd_op_##name,
#include "ops/ops.def"
#undef DD_OP
};

enum { COUNT = sizeof all / sizeof *all };

const dd_op *const *dd_ops(int *n) {
    *n = COUNT;
    return all;
}

/* A walk: names are looked up while a graph is built, never in a run. */
const dd_op *dd_op_find(const char *name) {
    for (int i = 0; i < COUNT; i++)
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    return NULL;
}

void dd_op_params_init(const dd_op *op, void *params) {
    if (op->params_size)
        memset(params, 0, op->params_size);
    for (const dd_field *f = op->fields; f && f->name; f++) {
        char *at = (char *)params + f->offset;
        int64_t whole = (int64_t)f->initial;
        switch (f->kind) {
        case DD_FIELD_INT:
        case DD_FIELD_BOOL:
        case DD_FIELD_ENUM:
            memcpy(at, &whole, sizeof whole);
            break;
        case DD_FIELD_FLOAT:
            memcpy(at, &f->initial, sizeof f->initial);
            break;
        case DD_FIELD_INTS:
        case DD_FIELD_FLOATS: /* empty */
            break;
        }
    }
}
