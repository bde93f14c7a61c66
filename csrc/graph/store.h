/* The store: all parameters of a model in one flat float32 array, apart from any graph.
 *
 * Entries have names ("backbone.stage1.0.expand.weight"), types (convolutions OIHW, dense), roles
 * and the optimizer's settings. Gradient, moments and moving average are flat twins. */
#ifndef DD_GRAPH_STORE_H
#define DD_GRAPH_STORE_H

#include "base/error.h"
#include "base/tensor.h"

typedef enum dd_role { DD_TRAINABLE = 0, DD_STATE, DD_CONSTANT } dd_role;

typedef struct dd_entry {
    char *name;
    dd_role role;
    dd_type type;
    int64_t offset, count; /* in floats; offsets are multiples of 16 */
    float lr_factor;       /* 1 */
    bool decay;            /* weight decay: matrices yes, biases and norms no */
    bool frozen;
} dd_entry;

typedef struct dd_store {
    dd_entry *entries;
    size_t n, capacity;
    uint32_t *index; /* by the name's hash: entry + 1, or 0; a power of two, at most half full */
    size_t index_capacity;
    float *values;
    size_t size, values_capacity; /* floats used, and allocated */
    uint64_t version;             /* goes up whenever values change: packed weights check it */
    uint64_t id;                  /* unique in the process */
} dd_store;

dd_status dd_store_create(dd_store **store);
void dd_store_destroy(dd_store *store);
dd_status dd_store_copy(const dd_store *from, dd_store **to);
/* Adds an entry of zeros; a name may exist once. */
dd_status dd_store_add(dd_store *s, const char *name, dd_role role, const dd_type *type, bool decay,
                       int *entry);
int dd_store_find(const dd_store *s, const char *name); /* -1 where there is none */
float *dd_store_data(const dd_store *s, int entry);
/* Call after values were written from outside. */
void dd_store_touch(dd_store *s);

#endif
