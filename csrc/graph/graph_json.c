/* Writes a graph; see graph_json.h. */
#include "graph/graph.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/json.h"
#include "graph/graph_json.h"

typedef struct writer {
    char *text;
    size_t length, capacity;
} writer;

/* The text always ends in a NUL, also while it grows. */
static dd_status put_bytes(writer *w, const char *bytes, size_t n) {
    DD_TRY(dd_reserve(&w->text, &w->capacity, w->length + n + 1, 1));
    memcpy(w->text + w->length, bytes, n);
    w->length += n;
    w->text[w->length] = '\0';
    return DD_OK;
}

static dd_status put(writer *w, const char *text) {
    return put_bytes(w, text, strlen(text));
}

static dd_status put_int(writer *w, int64_t i) {
    char text[32];
    (void)snprintf(text, sizeof text, "%" PRId64, i);
    return put(w, text);
}

/* Shortest of 15 to 17 digits that reads back as the same number. */
static dd_status put_double(writer *w, double d) {
    char text[40];
    if (isinf(d))
        return put(w, d > 0 ? "\"inf\"" : "\"-inf\"");
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, d);
        for (char *c = text; *c; c++)
            if (*c == ',') /* a locale's decimal comma */
                *c = '.';
        if (dd_json_decimal(text + (text[0] == '-'), strlen(text) - (text[0] == '-')) == fabs(d))
            break;
    }
    return put(w, text);
}

static dd_status put_string(writer *w, const char *s) {
    char escape[8];
    DD_TRY(put(w, "\""));
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            (void)snprintf(escape, sizeof escape, "\\%c", c);
        else if (c < 0x20)
            (void)snprintf(escape, sizeof escape, "\\u%04x", c);
        else
            (void)snprintf(escape, sizeof escape, "%c", c);
        DD_TRY(put(w, escape));
    }
    return put(w, "\"");
}

static dd_status put_key(writer *w, const char *key) {
    DD_TRY(put_string(w, key));
    return put(w, ":");
}

/* Both kinds of list begin with their length. */
static dd_status put_list(writer *w, const dd_field *f, const char *at) {
    int64_t n;
    memcpy(&n, at, sizeof n);
    DD_TRY(put(w, "["));
    for (int64_t i = 0; i < n; i++) {
        if (i)
            DD_TRY(put(w, ","));
        DD_TRY(f->kind == DD_FIELD_INTS
                   ? put_int(w, ((const dd_ints *)(const void *)at)->v[i])
                   : put_double(w, ((const dd_floats *)(const void *)at)->v[i]));
    }
    return put(w, "]");
}

/* "name": value; an enum by its word, so that its numbers may change. */
static dd_status put_field(writer *w, const dd_field *f, const char *at) {
    int64_t i;
    double d;
    DD_TRY(put_key(w, f->name));
    memcpy(&i, at, sizeof i);
    memcpy(&d, at, sizeof d);
    switch (f->kind) {
    case DD_FIELD_INT:
        return put_int(w, i);
    case DD_FIELD_FLOAT:
        return put_double(w, d);
    case DD_FIELD_BOOL:
        return put(w, i ? "true" : "false");
    case DD_FIELD_ENUM:
        return put_string(w, f->names[i]);
    case DD_FIELD_INTS:
    case DD_FIELD_FLOATS:
        return put_list(w, f, at);
    }
    return DD_OK;
}

/* Free dimensions stay -1: a graph fits any size. */
static dd_status put_input(writer *w, const dd_value *v) {
    DD_TRY(put(w, "{\"name\":"));
    DD_TRY(put_string(w, v->name));
    DD_TRY(put(w, ",\"dtype\":"));
    DD_TRY(put_string(w, dd_dtype_name(v->type.dtype)));
    DD_TRY(put(w, ",\"shape\":["));
    for (int i = 0; i < v->type.rank; i++) {
        if (i)
            DD_TRY(put(w, ","));
        DD_TRY(put_int(w, v->type.dims[i]));
    }
    return put(w, "]}");
}

/* "op" first: the reader needs it to understand the attributes. */
static dd_status put_node(writer *w, const dd_node *n, const int *number) {
    DD_TRY(put(w, "{\"op\":"));
    DD_TRY(put_string(w, n->op->name));
    DD_TRY(put(w, ",\"version\":"));
    DD_TRY(put_int(w, n->op->version));
    DD_TRY(put(w, ",\"name\":"));
    DD_TRY(put_string(w, n->name));
    DD_TRY(put(w, ",\"in\":["));
    for (int i = 0; i < n->n_in; i++) {
        if (i)
            DD_TRY(put(w, ","));
        DD_TRY(put_int(w, n->in[i] < 0 ? -1 : number[n->in[i]]));
    }
    DD_TRY(put(w, "],\"out\":"));
    DD_TRY(put_int(w, n->n_out));
    DD_TRY(put(w, ",\"attributes\":{"));
    for (const dd_field *f = n->op->fields; f && f->name; f++) {
        if (f != n->op->fields)
            DD_TRY(put(w, ","));
        DD_TRY(put_field(w, f, (const char *)n->params + f->offset));
    }
    return put(w, "}}");
}

/* The written numbers of all values. */
static void number_values(const dd_graph *g, int *number) {
    int next = 0;
    for (size_t i = 0; i < g->n_inputs; i++)
        number[g->inputs[i]] = next++;
    for (size_t i = 0; i < g->n_values; i++)
        if (g->values[i].kind == DD_VALUE_ENTRY)
            number[i] = next++;
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i].n_out; k++)
            number[g->nodes[i].out[k]] = next++;
}

/* Head and sections in the reader's order. */
static dd_status put_graph(writer *w, const dd_graph *g, const dd_store *s, const int *number) {
    const char *between = "";
    DD_TRY(put(w, "{\"format\":\"" DD_GRAPH_FORMAT "\",\"version\":"));
    DD_TRY(put_int(w, DD_GRAPH_VERSION));
    DD_TRY(put(w, ",\"inputs\":["));
    for (size_t i = 0; i < g->n_inputs; i++, between = ",") {
        DD_TRY(put(w, between));
        DD_TRY(put_input(w, &g->values[g->inputs[i]]));
    }
    DD_TRY(put(w, "],\"entries\":["));
    between = "";
    for (size_t i = 0; i < g->n_values; i++) {
        if (g->values[i].kind != DD_VALUE_ENTRY)
            continue;
        DD_TRY(put(w, between));
        DD_TRY(put_string(w, s->entries[g->values[i].entry].name));
        between = ",";
    }
    DD_TRY(put(w, "],\"nodes\":["));
    between = "";
    for (size_t i = 0; i < g->n_nodes; i++, between = ",") {
        DD_TRY(put(w, between));
        DD_TRY(put_node(w, &g->nodes[i], number));
    }
    DD_TRY(put(w, "],\"outputs\":["));
    between = "";
    for (size_t i = 0; i < g->n_outputs; i++, between = ",") {
        DD_TRY(put(w, between));
        DD_TRY(put(w, "{\"name\":"));
        DD_TRY(put_string(w, g->output_names[i]));
        DD_TRY(put(w, ",\"value\":"));
        DD_TRY(put_int(w, number[g->outputs[i]]));
        DD_TRY(put(w, "}"));
    }
    return put(w, "]}");
}

dd_status dd_graph_to_json(const dd_graph *g, const dd_store *s, char **text) {
    writer w = {0};
    int *number;
    if (g->training)
        return dd_fail(DD_EVALUE, "graph: a training graph is derived, write the forward graph");
    DD_TRY(dd_alloc_array(g->n_values, sizeof *number, &number));
    number_values(g, number);
    dd_status status = put_graph(&w, g, s, number);
    dd_free(number);
    if (status != DD_OK) {
        dd_free(w.text);
        return status;
    }
    *text = w.text;
    return DD_OK;
}
