/* From the file's values to a model: every part is looked up by name, checked, and copied, so that
 * the file's memory may go when the model stands.
 *
 * A value of a pickle may be referred to many times, so a small file can look like a huge one: a
 * list of a million times the same dict, or parameters that are all one tensor. What is walked is
 * therefore bounded three ways: the number of parameters, the size of the dicts that are searched
 * once a parameter, and the numbers that all parameters have together (no more than the file has
 * bytes). Nothing here descends by itself: the places that are read are known by name. */
#include "io/model_file.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/json.h"
#include "io/torch_file.h"

enum {
    MAX_ENTRIES = 1 << 14, /* parameters; they are found by name, in time that grows as n² */
    MAX_CLASSES = 1 << 20,
    ENTRY_FIELDS = 16, /* of one entry's dict: looked up n times, so it has to be short */
    DEFAULT_IMGSZ = 320,
};

typedef struct reader {
    const char *name; /* of the file */
    size_t length;
    const dd_torch_file *f;
    const dd_torch_value *state, *meta;
    dd_model *model;
} reader;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static dd_status(fail)(const reader *r, const char *format, ...) {
    char why[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    return dd_fail(DD_EFORMAT, "checkpoint: %s does not hold together: %s", r->name, why);
}
#define fail(...) dd_failed((fail)(__VA_ARGS__)) /* never DD_OK; see base/error.h */

/* A failure of the graph or store is one of the file; memory stays memory. */
static dd_status fail_of(const reader *r, dd_status status) {
    return status == DD_ENOMEM ? status : fail(r, "%s", dd_message());
}

/* ---- plain values -------------------------------------------------------------------------- */

/* A text as a C string of at most `most` bytes without NUL bytes, into `out` (most + 1 bytes). */
static dd_status read_text(const reader *r, const dd_torch_value *v, const char *what, char *out,
                           size_t most) {
    if (!v || v->kind != DD_TORCH_TEXT || v->count > most || memchr(v->as.bytes, 0, v->count))
        return fail(r, "%s is no text of at most %zu bytes", what, most);
    memcpy(out, v->as.bytes, v->count);
    out[v->count] = '\0';
    return DD_OK;
}

static dd_status read_whole(const reader *r, const dd_torch_value *v, const char *what, int64_t low,
                            int64_t high, int64_t *out) {
    if (!v || v->kind != DD_TORCH_WHOLE || v->as.whole < low || v->as.whole > high)
        return fail(r, "%s is no whole number from %" PRId64 " to %" PRId64, what, low, high);
    *out = v->as.whole;
    return DD_OK;
}

/* Python writes 3 where it means 3.0. */
static dd_status read_number(const reader *r, const dd_torch_value *v, const char *what,
                             double *out) {
    if (v && v->kind == DD_TORCH_NUMBER)
        *out = v->as.number;
    else if (v && v->kind == DD_TORCH_WHOLE)
        *out = (double)v->as.whole;
    else
        return fail(r, "%s is no number", what);
    return DD_OK;
}

/* Python's lists and tuples are one to a reader. */
static bool is_list(const dd_torch_value *v) {
    return v && (v->kind == DD_TORCH_LIST || v->kind == DD_TORCH_TUPLE);
}

/* ---- parameters ---------------------------------------------------------------------------- */

/* A role by its word, so that the enumeration may change. */
static dd_status read_role(const reader *r, const dd_torch_value *v, const char *name,
                           dd_role *role) {
    static const char *const words[] = {"trainable", "state", "constant"};
    for (int i = 0; v && i < 3; i++)
        if (dd_torch_is(v, words[i])) {
            *role = (dd_role)i;
            return DD_OK;
        }
    return fail(r, "the role of '%s' is none of 'trainable', 'state', 'constant'", name);
}

/* The tensor of a name: both lists are usually in one order, so its place is tried first. */
static const dd_torch_value *find_tensor(const reader *r, const char *name, uint32_t place) {
    uint32_t at = 2 * place;
    if (at < r->state->count && dd_torch_is(dd_torch_item(r->f, r->state, at), name))
        return dd_torch_item(r->f, r->state, at + 1);
    return dd_torch_get(r->f, r->state, name);
}

/* The i-th of meta.entries: {name, role, decay, lr_factor}. *left: numbers that may still come; a
 * storage that many tensors view would else fill any memory from a small file. */
static dd_status read_entry(const reader *r, const dd_torch_value *e, uint32_t i, size_t *left) {
    char name[DD_MAX_NAME + 1];
    dd_role role = DD_TRAINABLE;
    double lr_factor = 1;
    int entry = 0;
    if (e->kind != DD_TORCH_DICT || e->count > 2 * ENTRY_FIELDS)
        return fail(r, "an item of meta.entries is no parameter");
    DD_TRY(read_text(r, dd_torch_get(r->f, e, "name"), "a parameter's name", name, DD_MAX_NAME));
    DD_TRY(read_role(r, dd_torch_get(r->f, e, "role"), name, &role));
    DD_TRY(read_number(r, dd_torch_get(r->f, e, "lr_factor"), "an lr_factor", &lr_factor));
    const dd_torch_value *decay = dd_torch_get(r->f, e, "decay");
    if (!decay || decay->kind != DD_TORCH_FLAG)
        return fail(r, "the decay of '%s' is neither true nor false", name);
    const dd_torch_value *v = find_tensor(r, name, i);
    if (!v || v->kind != DD_TORCH_TENSOR)
        return fail(r, "state_dict lacks '%s' of meta.entries", name);
    const dd_torch_tensor *t = &r->f->tensors[v->as.index];
    if (t->rank > DD_MAX_RANK)
        return fail(r, "'%s' has %d dimensions, at most %d are possible", name, t->rank,
                    DD_MAX_RANK);
    if ((uint64_t)t->count > *left)
        return fail(r, "its parameters are more numbers than the file has bytes");
    *left -= (size_t)t->count;
    dd_type type = {.dtype = DD_F32, .rank = t->rank};
    for (int d = 0; d < t->rank; d++)
        type.dims[d] = dd_torch_size(r->f, t, d);
    dd_store *s = r->model->store;
    dd_status status = dd_store_add(s, name, role, &type, decay->as.flag, &entry);
    if (status != DD_OK)
        return fail_of(r, status);
    s->entries[entry].lr_factor = (float)lr_factor;
    dd_torch_tensor_floats(r->f, t, dd_store_data(s, entry));
    return DD_OK;
}

/* As many names on both sides, each found once: so none is left over. */
static dd_status read_store(const reader *r) {
    const dd_torch_value *entries = dd_torch_get(r->f, r->meta, "entries");
    if (!entries || entries->kind != DD_TORCH_LIST)
        return dd_fail(DD_EFORMAT, "checkpoint: %s holds no network: meta has no graph and entries",
                       r->name);
    if (entries->count > MAX_ENTRIES)
        return fail(r, "%u parameters came, at most %d are possible", entries->count, MAX_ENTRIES);
    if (r->state->count != 2 * entries->count)
        return fail(r, "meta.entries has %u parameters, state_dict %u", entries->count,
                    r->state->count / 2);
    DD_TRY(dd_store_create(&r->model->store));
    size_t left = r->length;
    for (uint32_t i = 0; i < entries->count; i++)
        DD_TRY(read_entry(r, dd_torch_item(r->f, entries, i), i, &left));
    dd_store_touch(r->model->store);
    return DD_OK;
}

/* After the store: the graph's text names its entries. */
static dd_status read_graph(const reader *r) {
    const dd_torch_value *graph = dd_torch_get(r->f, r->meta, "graph");
    if (!graph || graph->kind != DD_TORCH_TEXT)
        return dd_fail(DD_EFORMAT, "checkpoint: %s holds no network: meta has no graph and entries",
                       r->name);
    dd_status status =
        dd_graph_from_json(graph->as.bytes, graph->count, r->model->store, &r->model->graph);
    return status == DD_OK ? DD_OK : fail_of(r, status);
}

/* ---- what it detects ----------------------------------------------------------------------- */

/* meta.names and meta.categories; without categories the classes are numbered from 0. */
static dd_status read_classes(const reader *r) {
    const dd_torch_value *names = dd_torch_get(r->f, r->meta, "names"),
                         *ids = dd_torch_get(r->f, r->meta, "categories");
    char name[DD_MAX_NAME + 1];
    dd_model *m = r->model;
    if (!names)
        return DD_OK;
    if (!is_list(names) || names->count > MAX_CLASSES)
        return fail(r, "meta.names is no list of at most %d names", MAX_CLASSES);
    if (ids && (!is_list(ids) || ids->count != names->count))
        return fail(r, "meta.categories is no list of %u numbers", names->count);
    DD_TRY(dd_alloc_array(names->count, sizeof *m->classes, &m->classes));
    DD_TRY(dd_alloc_array(names->count, sizeof *m->categories, &m->categories));
    for (uint32_t i = 0; i < names->count; i++) {
        const dd_torch_value *v = dd_torch_item(r->f, names, i);
        DD_TRY(read_text(r, v, "a class name", name, DD_MAX_NAME));
        m->categories[i] = i;
        if (ids)
            DD_TRY(read_whole(r, dd_torch_item(r->f, ids, i), "a category", INT64_MIN, INT64_MAX,
                              &m->categories[i]));
        DD_TRY(dd_strdup(name, &m->classes[i]));
        m->n_classes = (int)i + 1; /* counted one by one: a failure frees what was made */
    }
    return DD_OK;
}

/* A list of meta.anchors, where it is there: `numbers` or `wholes` takes it. */
static dd_status read_anchor_list(const reader *r, const dd_torch_value *anchors, const char *key,
                                  int *n, double *numbers, int64_t *wholes) {
    const dd_torch_value *list = dd_torch_get(r->f, anchors, key);
    if (!list)
        return DD_OK;
    if (!is_list(list) || !list->count || list->count > DD_ANCHOR_LIST)
        return fail(r, "meta.anchors: %s is no list of 1 to %d numbers", key, DD_ANCHOR_LIST);
    *n = (int)list->count;
    for (uint32_t i = 0; i < list->count; i++) {
        const dd_torch_value *v = dd_torch_item(r->f, list, i);
        if (wholes)
            DD_TRY(read_whole(r, v, key, 1, INT32_MAX, &wholes[i]));
        else
            DD_TRY(read_number(r, v, key, &numbers[i]));
    }
    return DD_OK;
}

/* meta.anchors: what differs from the default rule. A word that is not known would change where the
 * boxes are, so it is refused; unknown words of meta itself say other things and are passed over.
 */
static dd_status read_anchors(const reader *r) {
    const dd_torch_value *anchors = dd_torch_get(r->f, r->meta, "anchors");
    dd_anchor_rule *rule = &r->model->anchors;
    int64_t levels[DD_ANCHOR_LIST + 1];
    *rule = dd_anchor_rule_default();
    if (!anchors)
        return DD_OK;
    if (anchors->kind != DD_TORCH_DICT)
        return fail(r, "meta.anchors is no dict");
    for (uint32_t i = 0; i < anchors->count; i += 2) {
        const dd_torch_value *key = dd_torch_item(r->f, anchors, i);
        if (!dd_torch_is(key, "strides") && !dd_torch_is(key, "ratios") &&
            !dd_torch_is(key, "scales") && !dd_torch_is(key, "base"))
            return fail(r, "meta.anchors has strides, ratios, scales and base only");
    }
    DD_TRY(read_anchor_list(r, anchors, "strides", &rule->n_strides, NULL, rule->strides));
    DD_TRY(read_anchor_list(r, anchors, "scales", &rule->n_scales, rule->scales, NULL));
    DD_TRY(read_anchor_list(r, anchors, "ratios", &rule->n_ratios, rule->ratios, NULL));
    if (dd_torch_get(r->f, anchors, "base"))
        DD_TRY(read_number(r, dd_torch_get(r->f, anchors, "base"), "base", &rule->base));
    dd_status status = dd_anchor_rule_levels(rule, 32, 32, levels);
    return status == DD_OK ? DD_OK : fail_of(r, status);
}

/* What a file of this package always has may be absent in one that a tool has written: then the
 * value stands that Python takes, too. */
static dd_status read_meta(const reader *r) {
    const dd_torch_value *model = dd_torch_get(r->f, r->meta, "model"),
                         *imgsz = dd_torch_get(r->f, r->meta, "imgsz");
    char name[DD_MAX_NAME + 1] = "";
    int64_t side = DEFAULT_IMGSZ;
    if (model)
        DD_TRY(read_text(r, model, "meta.model", name, DD_MAX_NAME));
    DD_TRY(dd_strdup(name, &r->model->name));
    if (imgsz)
        DD_TRY(read_whole(r, imgsz, "meta.imgsz", 1, INT_MAX, &side));
    r->model->imgsz = (int)side;
    DD_TRY(read_classes(r));
    return read_anchors(r);
}

/* ---- the whole ----------------------------------------------------------------------------- */

static dd_status read_model(reader *r) {
    const dd_torch_value *root = &r->f->values[r->f->root];
    r->state = dd_torch_get(r->f, root, "state_dict");
    r->meta = dd_torch_get(r->f, root, "meta");
    if (!r->state || !r->meta)
        return dd_fail(DD_EFORMAT,
                       "checkpoint: %s was not written by deepseek_det: it has no state_dict and "
                       "meta",
                       r->name);
    if (r->state->kind != DD_TORCH_DICT || r->meta->kind != DD_TORCH_DICT)
        return dd_fail(DD_EFORMAT, "checkpoint: %s: state_dict and meta are no dicts", r->name);
    DD_TRY(read_store(r));
    DD_TRY(read_graph(r));
    return read_meta(r);
}

dd_status dd_model_read(const char *data, size_t length, const char *name, dd_model **model) {
    dd_status status;
    dd_torch_file *file = NULL;
    dd_model *m = NULL; /* shown to the caller when it is whole */
    DD_TRY_DONE(dd_torch_read(data, length, name, &file));
    DD_TRY_DONE(dd_alloc_array(1, sizeof *m, &m));
    reader r = {.name = name, .length = length, .f = file, .model = m};
    DD_TRY_DONE(read_model(&r));
    *model = m;
    m = NULL;
done:
    dd_torch_destroy(file);
    dd_model_destroy(m);
    return status;
}

dd_status dd_model_load(const char *path, dd_model **model) {
    char *data;
    size_t length = 0;
    DD_TRY(dd_file_read(path, &data, &length));
    dd_status status = dd_model_read(data, length, path, model);
    dd_free(data);
    return status;
}

void dd_model_destroy(dd_model *model) {
    if (!model)
        return;
    dd_graph_destroy(model->graph);
    dd_store_destroy(model->store);
    dd_free(model->name);
    for (int i = 0; i < model->n_classes; i++)
        dd_free(model->classes[i]);
    dd_free(model->classes);
    dd_free(model->categories);
    dd_free(model);
}
