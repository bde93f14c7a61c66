/* Reads a graph, strictly: every index, count, name and word is checked; see graph_json.h. */
#include "graph/graph.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/json.h"
#include "graph/graph_json.h"

enum { MAX_EDGES = 4096 }; /* inputs, and outputs */

typedef struct reader {
    dd_json json;
    const dd_store *s;
    dd_graph *g;
    int section; /* 1 inputs, 2 entries, 3 nodes, 4 outputs */
} reader;

/* A name: not empty, not too long, without NUL bytes. */
static dd_status read_name(reader *r, char name[DD_MAX_NAME + 1]) {
    dd_json_text text;
    DD_TRY(dd_json_string(&r->json, &text));
    if (text.length > DD_MAX_NAME)
        return dd_json_fail(&r->json, "a name is longer than 400 bytes");
    size_t n = dd_json_unescape(&text, name);
    name[n] = '\0';
    if (n == 0 || strlen(name) != n)
        return dd_json_fail(&r->json, "a name is empty or holds a zero byte");
    return DD_OK;
}

/* A whole number in [low, high]. */
static dd_status read_int(reader *r, const char *what, int64_t low, int64_t high, int64_t *value) {
    char text[128];
    int64_t i;
    if (dd_json_int(&r->json, &i) == DD_OK && i >= low && i <= high) {
        *value = i;
        return DD_OK;
    }
    (void)snprintf(text, sizeof text,
                   "%s: a whole number from %" PRId64 " to %" PRId64 " is needed", what, low, high);
    return dd_json_fail(&r->json, text);
}

/* JSON has no infinity: it comes as a word. NaN has none, and is refused. */
static dd_status read_double(reader *r, double *value) {
    dd_json_text text;
    if (dd_json_peek(&r->json) != DD_JSON_STRING)
        return dd_json_number(&r->json, value);
    DD_TRY(dd_json_string(&r->json, &text));
    if (!dd_json_is(&text, "inf") && !dd_json_is(&text, "-inf"))
        return dd_json_fail(&r->json, "a number, \"inf\" or \"-inf\" is needed");
    *value = text.data[0] == '-' ? -INFINITY : INFINITY;
    return DD_OK;
}

/* "what 'word' is unknown", with the place. */
static dd_status fail_word(reader *r, const char *what, const char *word) {
    char text[DD_MAX_NAME + 64];
    (void)snprintf(text, sizeof text, "%s '%s' is unknown", what, word);
    return dd_json_fail(&r->json, text);
}

static dd_status read_enum(reader *r, const dd_field *f, int64_t *value) {
    char word[DD_MAX_NAME + 1];
    DD_TRY(read_name(r, word));
    for (int64_t i = 0; f->names[i]; i++)
        if (strcmp(f->names[i], word) == 0) {
            *value = i;
            return DD_OK;
        }
    return fail_word(r, f->name, word);
}

/* Into both kinds of list at once; the field says which one is kept. */
static dd_status read_list(reader *r, const dd_field *f, char *at) {
    dd_ints ints = {0};
    dd_floats floats = {0};
    bool more;
    DD_TRY(dd_json_array(&r->json));
    for (int64_t n = 0;; n++) {
        DD_TRY(dd_json_item(&r->json, &more));
        if (!more)
            break;
        if (n == DD_MAX_LIST)
            return dd_json_fail(&r->json, "more than 8 items in an attribute");
        ints.n = floats.n = n + 1;
        DD_TRY(f->kind == DD_FIELD_INTS
                   ? read_int(r, f->name, -DD_JSON_MAX_INT, DD_JSON_MAX_INT, &ints.v[n])
                   : read_double(r, &floats.v[n]));
    }
    if (f->kind == DD_FIELD_INTS)
        memcpy(at, &ints, sizeof ints);
    else
        memcpy(at, &floats, sizeof floats);
    return DD_OK;
}

static dd_status read_field(reader *r, const dd_field *f, char *at) {
    int64_t i = 0;
    double d = 0;
    bool b = false;
    switch (f->kind) {
    case DD_FIELD_FLOAT:
        DD_TRY(read_double(r, &d));
        memcpy(at, &d, sizeof d);
        return DD_OK;
    case DD_FIELD_INTS:
    case DD_FIELD_FLOATS:
        return read_list(r, f, at);
    case DD_FIELD_BOOL:
        DD_TRY(dd_json_bool(&r->json, &b));
        i = b;
        break;
    case DD_FIELD_ENUM:
        DD_TRY(read_enum(r, f, &i));
        break;
    case DD_FIELD_INT:
        DD_TRY(read_int(r, f->name, -DD_JSON_MAX_INT, DD_JSON_MAX_INT, &i));
        break;
    }
    memcpy(at, &i, sizeof i);
    return DD_OK;
}

/* Over initial values. An unknown name is an error: to drop it silently would change the net. */
static dd_status read_attributes(reader *r, const dd_op *op, char *params) {
    dd_json_text key;
    bool more;
    DD_TRY(dd_json_object(&r->json));
    for (;;) {
        const dd_field *f = op->fields;
        DD_TRY(dd_json_key(&r->json, &key, &more));
        if (!more)
            return DD_OK;
        while (f && f->name && !dd_json_is(&key, f->name))
            f++;
        if (!f || !f->name)
            return fail_word(r, "an attribute of", op->name);
        DD_TRY(read_field(r, f, params + f->offset));
    }
}

/* ---- the sections -------------------------------------------------------------------------- */

static dd_status read_dtype(reader *r, dd_dtype *dtype) {
    char word[DD_MAX_NAME + 1];
    DD_TRY(read_name(r, word));
    for (int d = 0; d < DD_DTYPES; d++)
        if (strcmp(dd_dtype_name((dd_dtype)d), word) == 0) {
            *dtype = (dd_dtype)d;
            return DD_OK;
        }
    return fail_word(r, "dtype", word);
}

static dd_status read_shape(reader *r, dd_type *type) {
    bool more;
    type->rank = 0;
    DD_TRY(dd_json_array(&r->json));
    for (;;) {
        DD_TRY(dd_json_item(&r->json, &more));
        if (!more)
            return DD_OK;
        if (type->rank == DD_MAX_RANK)
            return dd_json_fail(&r->json, "an input has more than 6 dimensions");
        DD_TRY(read_int(r, "a dimension", -1, 1 << 30, &type->dims[type->rank]));
        type->rank++;
    }
}

/* {"name", "dtype", "shape"}, in any order. */
static dd_status read_input(reader *r) {
    dd_type type = {.dtype = DD_DTYPES, .rank = -1};
    char name[DD_MAX_NAME + 1] = "";
    dd_json_text key;
    bool more;
    int id;
    DD_TRY(dd_json_object(&r->json));
    for (;;) {
        DD_TRY(dd_json_key(&r->json, &key, &more));
        if (!more)
            break;
        if (dd_json_is(&key, "name"))
            DD_TRY(read_name(r, name));
        else if (dd_json_is(&key, "dtype"))
            DD_TRY(read_dtype(r, &type.dtype));
        else if (dd_json_is(&key, "shape"))
            DD_TRY(read_shape(r, &type));
        else
            return dd_json_fail(&r->json, "an input has name, dtype and shape only");
    }
    if (!name[0] || type.rank < 0 || type.dtype == DD_DTYPES)
        return dd_json_fail(&r->json, "an input needs name, dtype and shape");
    return dd_graph_input(r->g, name, &type, &id);
}

/* By name: a store may have its entries in another order, and more of them. */
static dd_status read_entry(reader *r) {
    char name[DD_MAX_NAME + 1];
    int id;
    size_t before = r->g->n_values;
    DD_TRY(read_name(r, name));
    int entry = dd_store_find(r->s, name);
    if (entry < 0)
        return fail_word(r, "the store's entry", name);
    DD_TRY(dd_graph_entry(r->g, r->s, entry, &id));
    if (r->g->n_values == before) /* the numbering of what follows would shift */
        return fail_word(r, "the second entry of the same name", name);
    return DD_OK;
}

static dd_status read_op(reader *r, const dd_op **op) {
    char name[DD_MAX_NAME + 1];
    dd_json_text key;
    bool more;
    DD_TRY(dd_json_object(&r->json));
    DD_TRY(dd_json_key(&r->json, &key, &more));
    if (!more || !dd_json_is(&key, "op"))
        return dd_json_fail(&r->json, "a node's first key is \"op\"");
    DD_TRY(read_name(r, name));
    *op = dd_op_find(name);
    return *op ? DD_OK : fail_word(r, "operator", name);
}

/* Only values that exist already: so the nodes are in topological order and no cycle can come. */
static dd_status read_ids(reader *r, int *in, int *n_in) {
    bool more;
    int64_t id = -1;
    DD_TRY(dd_json_array(&r->json));
    for (*n_in = 0;; (*n_in)++) {
        DD_TRY(dd_json_item(&r->json, &more));
        if (!more)
            return DD_OK;
        if (*n_in == DD_MANY)
            return dd_json_fail(&r->json, "a node has more than 64 inputs");
        DD_TRY(read_int(r, "an input's number", -1, (int64_t)r->g->n_values - 1, &id));
        in[*n_in] = (int)id;
    }
}

/* The rest of a node; `params` is cleared room of the operator's size. */
static dd_status read_node_body(reader *r, const dd_op *op, char *params) {
    char name[DD_MAX_NAME + 1] = "";
    dd_json_text key;
    bool more;
    int in[DD_MANY], out[DD_MANY], n_in = -1;
    int64_t n_out = -1, version = -1;
    for (;;) {
        DD_TRY(dd_json_key(&r->json, &key, &more));
        if (!more)
            break;
        if (dd_json_is(&key, "name"))
            DD_TRY(read_name(r, name));
        else if (dd_json_is(&key, "version"))
            DD_TRY(read_int(r, "an operator's version", 0, op->version, &version));
        else if (dd_json_is(&key, "in"))
            DD_TRY(read_ids(r, in, &n_in));
        else if (dd_json_is(&key, "out"))
            DD_TRY(read_int(r, "a node's outputs", 1, DD_MANY, &n_out));
        else if (dd_json_is(&key, "attributes"))
            DD_TRY(read_attributes(r, op, params));
        else
            return dd_json_fail(&r->json, "a node has op, version, name, in, out and attributes");
    }
    if (!name[0] || n_in < 0 || n_out < 0 || version < 0)
        return dd_json_fail(&r->json, "a node needs op, version, name, in and out");
    return dd_graph_node(r->g, op, name, params, in, n_in, (int)n_out, out, NULL);
}

/* The operator tells the size of the attributes; they live until the graph has its copy. */
static dd_status read_node(reader *r) {
    const dd_op *op;
    char *params;
    DD_TRY(read_op(r, &op));
    DD_TRY(dd_alloc_array(1, op->params_size, &params));
    dd_op_params_init(op, params);
    dd_status status = read_node_body(r, op, params);
    dd_free(params);
    return status;
}

/* {"name", "value"} */
static dd_status read_output(reader *r) {
    char name[DD_MAX_NAME + 1] = "";
    dd_json_text key;
    bool more;
    int64_t value = -1;
    DD_TRY(dd_json_object(&r->json));
    for (;;) {
        DD_TRY(dd_json_key(&r->json, &key, &more));
        if (!more)
            break;
        if (dd_json_is(&key, "name"))
            DD_TRY(read_name(r, name));
        else if (dd_json_is(&key, "value"))
            DD_TRY(read_int(r, "an output's value", 0, (int64_t)r->g->n_values - 1, &value));
        else
            return dd_json_fail(&r->json, "an output has name and value only");
    }
    if (!name[0] || value < 0)
        return dd_json_fail(&r->json, "an output needs name and value");
    return dd_graph_output(r->g, name, (int)value);
}

/* One array of items; sections out of order would refer to values that are not there. */
static dd_status read_section(reader *r, int section, dd_status (*item)(reader *)) {
    bool more;
    if (r->section != section - 1)
        return dd_json_fail(&r->json, "inputs, entries, nodes and outputs stand in this order");
    r->section = section;
    DD_TRY(dd_json_array(&r->json));
    for (size_t n = 0;; n++) {
        DD_TRY(dd_json_item(&r->json, &more));
        if (!more)
            return DD_OK;
        /* Their names are compared with each other: no small text may make hours of it. */
        if (n == MAX_EDGES && section != 2 && section != 3)
            return dd_json_fail(&r->json, "more than 4096 inputs or outputs");
        size_t line = dd_json_line(&r->json);
        dd_status status = item(r);
        /* the graph's own checks do not know the text */
        if (status == DD_EVALUE)
            return dd_fail_within(status, "graph, line %zu", line);
        DD_TRY(status);
    }
}

/* The whole text: unknown keys are refused, for they would change what the graph means. */
static dd_status read_graph(reader *r) {
    dd_json_text key, word;
    bool more;
    int64_t version = -1;
    bool format = false, versioned = false;
    DD_TRY(dd_json_object(&r->json));
    for (;;) {
        DD_TRY(dd_json_key(&r->json, &key, &more));
        if (!more)
            break;
        if (dd_json_is(&key, "format")) {
            DD_TRY(dd_json_string(&r->json, &word));
            format = dd_json_is(&word, DD_GRAPH_FORMAT);
        } else if (dd_json_is(&key, "version")) {
            DD_TRY(read_int(r, "the graph's version", 1, DD_GRAPH_VERSION, &version));
            versioned = true;
        } else if (dd_json_is(&key, "inputs")) {
            DD_TRY(read_section(r, 1, read_input));
        } else if (dd_json_is(&key, "entries")) {
            DD_TRY(read_section(r, 2, read_entry));
        } else if (dd_json_is(&key, "nodes")) {
            DD_TRY(read_section(r, 3, read_node));
        } else if (dd_json_is(&key, "outputs")) {
            DD_TRY(read_section(r, 4, read_output));
        } else {
            return dd_json_fail(&r->json, "an unknown key of the graph");
        }
    }
    if (!format || !versioned || r->section != 4)
        return dd_json_fail(&r->json, "not a whole " DD_GRAPH_FORMAT);
    return dd_json_end(&r->json);
}

dd_status dd_graph_from_json(const char *text, size_t length, const dd_store *s, dd_graph **g) {
    dd_status status;
    reader r = {.s = s};
    char *copy = NULL; /* the reader wants a NUL behind the text, which may be part of a file */
    size_t bytes;
    DD_TRY(dd_size_add(length, 1, "graph", &bytes));
    DD_TRY_DONE(dd_alloc(bytes, &copy));
    if (length)
        memcpy(copy, text, length);
    copy[length] = '\0';
    dd_json_begin(&r.json, copy, length, "graph");
    DD_TRY_DONE(dd_graph_create(&r.g));
    DD_TRY_DONE(read_graph(&r));
    *g = r.g;
    r.g = NULL;
done:
    dd_json_free(&r.json);
    dd_graph_destroy(r.g);
    dd_free(copy);
    return status;
}
