/* Store and graph: building, refusals, copies, types, dead nodes, JSON; every allocation failure.
 */
#include <math.h>

#include "check.h"
#include "graph/autodiff.h"
#include "graph/channels.h"
#include "graph/interpret.h"
#include "graph/rewrite.h"
#include "nets.h"

static const dd_type image = {.dtype = DD_F32, .rank = 4, .dims = {2, 8, 16, 3}};

static bool says(const char *word) {
    return strstr(dd_message(), word) != NULL;
}

/* ---- store --------------------------------------------------------------------------------- */

/* Names are found through an index that grows with them; a refused one leaves no trace. */
static void check_many_names(void) {
    enum { MANY = 3000 };
    dd_store *s, *copy;
    dd_type one = {.dtype = DD_F32, .rank = 1, .dims = {1}};
    char name[32];
    int entry, wrong = 0;
    CHECK(!dd_store_create(&s) && dd_store_find(s, "n0") == -1, "an empty store");
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "n%d", i);
        wrong += dd_store_add(s, name, DD_CONSTANT, &one, false, &entry) || entry != i;
        wrong += dd_store_add(s, name, DD_CONSTANT, &one, false, &entry) != DD_EVALUE;
    }
    CHECK(!dd_store_copy(s, &copy), "%s", dd_message());
    for (int i = 0; i < MANY + 9; i++) {
        snprintf(name, sizeof name, "n%d", i);
        int want = i < MANY ? i : -1;
        wrong += dd_store_find(s, name) != want || dd_store_find(copy, name) != want;
    }
    CHECK(wrong == 0, "%d of %d names", wrong, MANY);
    CHECK(!dd_store_add(copy, "more", DD_CONSTANT, &one, false, &entry) && entry == MANY &&
              dd_store_find(copy, "more") == MANY && dd_store_find(s, "more") == -1,
          "a copy has names of its own");
    dd_store_destroy(s);
    dd_store_destroy(copy);
}

static void check_store(void) {
    dd_store *s, *copy;
    int a, b, unused;
    dd_type five = {.dtype = DD_F32, .rank = 1, .dims = {5}},
            bytes = {.dtype = DD_U8, .rank = 1, .dims = {5}},
            bad = {.dtype = DD_F32, .rank = 1, .dims = {-5}};
    char longer[DD_MAX_NAME + 2];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    net_must(dd_store_create(&s));
    net_must(dd_store_add(s, "a", DD_TRAINABLE, &five, true, &a));
    net_must(dd_store_add(s, "b", DD_STATE, &five, false, &b));
    CHECK(s->entries[b].offset == 16 && s->size == 32, "offsets are multiples of 16");
    CHECK(dd_store_find(s, "b") == b && dd_store_find(s, "c") == -1, "find");
    CHECK(dd_store_add(s, "a", DD_STATE, &five, false, &unused) == DD_EVALUE && says("'a'"),
          "a name twice");
    CHECK(dd_store_add(s, "", DD_STATE, &five, false, &unused) == DD_EVALUE, "no name");
    CHECK(dd_store_add(s, longer, DD_STATE, &five, false, &unused) == DD_EVALUE, "long name");
    CHECK(dd_store_add(s, "d", (dd_role)7, &five, false, &unused) == DD_EVALUE, "role");
    CHECK(dd_store_add(s, "d", DD_STATE, &bytes, false, &unused) == DD_ETYPE && says("u8"),
          "dtype");
    CHECK(dd_store_add(s, "d", DD_STATE, &bad, false, &unused) == DD_EVALUE, "dimension");
    CHECK(s->n == 2 && s->size == 32, "a refusal changes nothing");
    for (size_t k = 0; k < s->size; k++)
        CHECK(s->values[k] == 0, "new values are zero");
    dd_store_data(s, a)[4] = 3;
    uint64_t version = s->version;
    dd_store_touch(s);
    CHECK(s->version > version, "touch");
    net_must(dd_store_copy(s, &copy));
    CHECK(copy->id != s->id && copy->n == 2 && dd_store_data(copy, a)[4] == 3 &&
              strcmp(copy->entries[b].name, "b") == 0 && copy->entries[a].decay,
          "copy");
    dd_store_destroy(copy);
    dd_store_destroy(s);
    dd_store_destroy(NULL);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static void check_refusals(void) {
    net n;
    int out[DD_MANY], id;
    net_init(&n, 1);
    int x = net_input(&n, "x", 3), w = net_weight(&n, 3, 4, 3, 1);
    dd_type t = {.dtype = DD_F32, .rank = 2, .dims = {-1, 4}};
    const dd_op *conv = dd_op_find("conv"), *unary = dd_op_find("unary"),
                *split = dd_op_find("split");
    struct {
        const dd_op *op;
        int in[4], n_in, n_outputs;
        const char *word;
    } rows[] = {
        {conv, {x}, 1, 0, "1 inputs"},   {conv, {x, w, -1, -1}, 4, 0, "4 inputs"},
        {conv, {x, -1}, 2, 0, "absent"}, {conv, {x, 99}, 2, 0, "99"},
        {conv, {x, -2}, 2, 0, "-2"},     {conv, {x, w}, 2, 2, "outputs"},
        {split, {x}, 1, 0, "outputs"},   {split, {x}, 1, DD_MANY + 1, "outputs"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        dd_status status = dd_graph_node(n.g, rows[i].op, "n", NULL, rows[i].in, rows[i].n_in,
                                         rows[i].n_outputs, out, NULL);
        CHECK(status == DD_EVALUE && says(rows[i].word), "row %zu: %s", i, dd_message());
    }
    dd_unary_params u = {.kind = DD_UNARIES};
    CHECK(dd_graph_node(n.g, unary, "n", &u, &x, 1, 0, out, NULL) == DD_EVALUE && says("kind"),
          "an enum beyond its names");
    u = (dd_unary_params){.kind = DD_CLIP, .a = NAN};
    CHECK(dd_graph_node(n.g, unary, "n", &u, &x, 1, 0, out, NULL) == DD_EVALUE && says("'a'"),
          "an attribute that is no number");
    dd_conv_params c = {.groups = 1, .pads = {.n = 9}};
    CHECK(dd_graph_node(n.g, conv, "n", &c, (int[]){x, w}, 2, 0, out, NULL) == DD_EVALUE &&
              says("pads"),
          "a list beyond its capacity");
    CHECK(dd_graph_node(n.g, unary, "", NULL, &x, 1, 0, out, NULL) == DD_EVALUE, "no name");
    CHECK(dd_graph_input(n.g, "x", &t, &id) == DD_EVALUE && says("'x'"), "an input twice");
    t.dims[0] = -2;
    CHECK(dd_graph_input(n.g, "z", &t, &id) == DD_EVALUE && says("-2"), "a dimension of -2");
    t.rank = 7;
    CHECK(dd_graph_input(n.g, "z", &t, &id) == DD_EVALUE, "rank 7");
    CHECK(dd_graph_entry(n.g, n.s, 5, &id) == DD_EVALUE, "no such entry");
    CHECK(dd_graph_output(n.g, "o", 99) == DD_EVALUE && says("99"), "no such value");
    net_must(dd_graph_output(n.g, "o", x));
    CHECK(dd_graph_output(n.g, "o", x) == DD_EVALUE, "an output twice");
    CHECK(n.g->n_nodes == 0 && n.g->n_values == 2, "refusals change nothing");
    int again;
    net_must(dd_graph_entry(n.g, n.s, 0, &again));
    CHECK(again == w, "an entry has one value");
    net_free(&n);
}

static void check_types(void) {
    net n;
    net_init(&n, 2);
    int x = net_input(&n, "x", 3);
    int y = net_conv(&n, x, 3, 4, 3, 2, 1, true);
    int z = net_conv(&n, y, 8, 4, 1, 1, 1, false); /* takes 8 channels, gets 4 */
    net_must(dd_graph_output(n.g, "z", z));
    dd_type types[16], wrong = image;
    CHECK(dd_graph_infer(n.g, n.s, &image, types) == DD_EVALUE && says("conv1") && says("8"),
          "the node is named: %s", dd_message());
    wrong.dims[3] = 4;
    CHECK(dd_graph_infer(n.g, n.s, &wrong, types) == DD_EVALUE && says("input 'x'"), "%s",
          dd_message());
    wrong = image;
    wrong.dtype = DD_U8;
    CHECK(dd_graph_infer(n.g, n.s, &wrong, types) == DD_EVALUE, "bytes for floats");
    net_free(&n);
    net_init(&n, 2);
    x = net_input(&n, "x", 3);
    y = net_conv(&n, x, 3, 4, 3, 2, 1, true);
    net_must(dd_graph_output(n.g, "y", y));
    net_must(dd_graph_infer(n.g, n.s, &image, types));
    dd_type want = {.dtype = DD_F32, .rank = 4, .dims = {2, 4, 8, 4}};
    CHECK(dd_type_equal(&types[y], &want), "conv's type");
    CHECK(dd_graph_macs(n.g, types) == 2 * 4 * 8 * 4 * 27, "macs %lld",
          (long long)dd_graph_macs(n.g, types));
    net_free(&n);
}

/* ---- running a graph ----------------------------------------------------------------------- */

static float picture[2 * 8 * 16 * 3];

/* Output `output` of a graph on the test image; the caller frees. */
static float *run(const dd_graph *g, dd_store *s, int output, int64_t *count) {
    dd_interpreter *it;
    dd_array in = dd_array_dense(picture, &image);
    float *copy;
    net_must(dd_interpreter_create(g, s, &image, 5, &it));
    net_must(dd_interpreter_forward(it, &in, 0));
    dd_array out = dd_interpreter_value(it, g->outputs[output]);
    *count = dd_type_count(&out.type);
    net_must(dd_alloc((size_t)*count * sizeof *copy, &copy));
    memcpy(copy, out.data, (size_t)*count * sizeof *copy);
    dd_interpreter_destroy(it);
    return copy;
}

static bool same_outputs(const dd_graph *a, const dd_graph *b, dd_store *s) {
    bool same = a->n_outputs == b->n_outputs;
    for (size_t i = 0; same && i < a->n_outputs; i++) {
        int64_t n, m;
        float *x = run(a, s, (int)i, &n), *y = run(b, s, (int)i, &m);
        same = n == m && memcmp(x, y, (size_t)n * sizeof *x) == 0;
        dd_free(x);
        dd_free(y);
    }
    return same;
}

static void check_random_graphs(void) {
    for (uint64_t seed = 1; seed <= 25; seed++) {
        net n;
        dd_graph *copy, *read;
        char *text, *again;
        net_random(&n, seed, 14);
        net_must(dd_graph_copy(n.g, &copy));
        CHECK(same_outputs(n.g, copy, n.s), "copy of net %d", (int)seed);
        net_must(dd_graph_prune_dead(copy));
        CHECK(same_outputs(n.g, copy, n.s), "pruned copy of net %d", (int)seed);
        CHECK(copy->n_nodes <= n.g->n_nodes && copy->n_forward == (int)copy->n_nodes, "pruned");
        size_t nodes = copy->n_nodes, values = copy->n_values;
        net_must(dd_graph_prune_dead(copy));
        CHECK(copy->n_nodes == nodes && copy->n_values == values, "pruned twice");
        net_must(dd_graph_to_json(n.g, n.s, &text));
        dd_status status = dd_graph_from_json(text, strlen(text), n.s, &read);
        CHECK(status == DD_OK, "net %d: %s", (int)seed, dd_message());
        if (status == DD_OK) {
            CHECK(same_outputs(n.g, read, n.s), "JSON of net %d", (int)seed);
            net_must(dd_graph_to_json(read, n.s, &again));
            CHECK(strcmp(text, again) == 0, "JSON of net %d is not stable", (int)seed);
            dd_free(again);
            dd_graph_destroy(read);
        }
        dd_free(text);
        dd_graph_destroy(copy);
        net_free(&n);
    }
}

static void check_dead(void) {
    net n;
    net_init(&n, 3);
    int x = net_input(&n, "x", 3), unused = net_input(&n, "unused", 2);
    int a = net_act(&n, x, DD_RELU), b = net_act(&n, x, DD_SIGMOID), c = net_act(&n, b, DD_RELU);
    (void)c;
    (void)unused;
    net_must(dd_graph_output(n.g, "a", a));
    net_must(dd_graph_prune_dead(n.g));
    CHECK(n.g->n_nodes == 1 && n.g->n_inputs == 2 && n.g->n_values == 3, "dead nodes go");
    CHECK(n.g->values[n.g->outputs[0]].producer == 0, "producer follows");
    net_free(&n);
}

/* ---- JSON that must be refused ------------------------------------------------------------- */

#define HEAD "{\"format\":\"deepseek_det.graph\",\"version\":1,"
#define INPUT "\"inputs\":[{\"name\":\"x\",\"dtype\":\"f32\",\"shape\":[-1,-1,-1,3]}],"
#define NODE(text) HEAD INPUT "\"entries\":[],\"nodes\":[" text "],\"outputs\":[]}"

static const struct {
    const char *text, *word;
} refused[] = {
    {"", "file ends"},
    {"[]", "object"},
    {"{}", "not a whole"},
    {HEAD "\"inputs\":[],\"entries\":[],\"nodes\":[]}", "not a whole"},
    {HEAD "\"entries\":[],\"inputs\":[],\"nodes\":[],\"outputs\":[]}", "order"},
    {HEAD "\"inputs\":[],\"entries\":[],\"nodes\":[],\"outputs\":[],\"more\":1}", "unknown key"},
    {HEAD "\"inputs\":[],\"entries\":[],\"nodes\":[],\"outputs\":[]} x", "x"},
    {"{\"format\":\"other\",\"version\":1,\"inputs\":[],\"entries\":[],\"nodes\":[],"
     "\"outputs\":[]}",
     "not a whole"},
    {"{\"format\":\"deepseek_det.graph\",\"version\":2,\"inputs\":[]}", "version"},
    {HEAD "\"inputs\":[{\"name\":\"x\",\"dtype\":\"f32\"}]", "needs name"},
    {HEAD "\"inputs\":[{\"name\":\"\",\"dtype\":\"f32\",\"shape\":[]}]", "empty"},
    {HEAD "\"inputs\":[{\"name\":\"a\\u0000b\",\"dtype\":\"f32\",\"shape\":[]}]", "zero byte"},
    {HEAD "\"inputs\":[{\"name\":\"x\",\"dtype\":\"f31\",\"shape\":[]}]", "f31"},
    {HEAD "\"inputs\":[{\"name\":\"x\",\"dtype\":\"f32\",\"shape\":[1,2,3,4,5,6,7]}]",
     "6 dimensions"},
    {HEAD "\"inputs\":[{\"name\":\"x\",\"dtype\":\"f32\",\"shape\":[-2]}]", "dimension"},
    {HEAD "\"inputs\":[{\"name\":\"x\",\"dtype\":\"f32\",\"shape\":[1.5]}]", "dimension"},
    {HEAD "\"inputs\":[{\"name\":\"x\",\"dtype\":\"f32\",\"shape\":[1],\"z\":0}]", "only"},
    {HEAD INPUT "\"entries\":[\"nobody\"]", "nobody"},
    {HEAD INPUT "\"entries\":[\"w\",\"w\"]", "second"},
    {HEAD INPUT "\"entries\":[7]", "string"},
    {NODE("{\"name\":\"n\",\"op\":\"unary\"}"), "first key"},
    {NODE("{\"op\":\"nothing\"}"), "nothing"},
    {NODE("{\"op\":\"unary\",\"version\":99}"), "version"},
    {NODE("{\"op\":\"unary\",\"version\":1,\"name\":\"n\",\"in\":[0]}"), "needs op"},
    {NODE("{\"op\":\"unary\",\"version\":1,\"name\":\"n\",\"in\":[1],\"out\":1}"), "input's"},
    {NODE("{\"op\":\"unary\",\"version\":1,\"name\":\"n\",\"in\":[-2],\"out\":1}"), "input's"},
    {NODE("{\"op\":\"unary\",\"version\":1,\"name\":\"n\",\"in\":[-1],\"out\":1}"), "absent"},
    {NODE("{\"op\":\"unary\",\"version\":1,\"name\":\"n\",\"in\":[0],\"out\":0}"), "outputs"},
    {NODE("{\"op\":\"unary\",\"version\":1,\"name\":\"n\",\"in\":[0],\"out\":2}"), "outputs"},
    {NODE("{\"op\":\"unary\",\"version\":1,\"name\":\"n\",\"in\":[0,0],\"out\":1}"), "2 inputs"},
    {NODE("{\"op\":\"unary\",\"version\":1,\"name\":\"n\",\"in\":[0],\"out\":1,"
          "\"attributes\":{\"kind\":\"rel\"}}"),
     "rel"},
    {NODE("{\"op\":\"unary\",\"attributes\":{\"kind\":7}}"), "string"},
    {NODE("{\"op\":\"unary\",\"attributes\":{\"slope\":7}}"), "unary"},
    {NODE("{\"op\":\"unary\",\"attributes\":{\"a\":\"nan\"}}"), "inf"},
    {NODE("{\"op\":\"unary\",\"attributes\":{\"a\":1,\"a\":2}}"), "twice"},
    {NODE("{\"op\":\"conv\",\"attributes\":{\"pads\":[1,2,3,4,5,6,7,8,9]}}"), "8 items"},
    {NODE("{\"op\":\"conv\",\"attributes\":{\"groups\":1.5}}"), "groups"},
    {NODE("{\"op\":\"conv\",\"attributes\":{\"groups\":9007199254740993}}"), "groups"},
    {NODE("{\"op\":\"batch_norm\",\"attributes\":{\"frozen\":1}}"), "true"},
    {NODE("{\"op\":\"unary\",\"more\":1}"), "a node has"},
    {HEAD INPUT "\"entries\":[],\"nodes\":[],\"outputs\":[{\"name\":\"y\",\"value\":1}]}",
     "output's value"},
    {HEAD INPUT "\"entries\":[],\"nodes\":[],\"outputs\":[{\"name\":\"y\"}]}", "needs name"},
    {HEAD INPUT "\"entries\":[],\"nodes\":[],\"outputs\":[{\"name\":\"y\",\"value\":0},"
                "{\"name\":\"y\",\"value\":0}]}",
     "'y'"},
};

/* As many inputs as no net has, each with its own name. */
static void check_many_inputs(void) {
    enum { MANY = 5000 };
    static char text[MANY * 64];
    size_t n = (size_t)snprintf(text, sizeof text, HEAD "\"inputs\":[");
    dd_graph *g;
    dd_store *s;
    for (int i = 0; i < MANY; i++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "{\"name\":\"x%d\",\"dtype\":\"f32\",\"shape\":[]},", i);
    net_must(dd_store_create(&s));
    CHECK(dd_graph_from_json(text, n, s, &g) == DD_EFORMAT && says("4096 inputs"), "%s",
          dd_message());
    dd_store_destroy(s);
}

static void check_bad_json(void) {
    net n;
    dd_graph *g;
    net_init(&n, 4);
    net_entry(&n, "w", DD_TRAINABLE, 1, (int64_t[]){3}, 0, 1);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        dd_status status = dd_graph_from_json(refused[i].text, strlen(refused[i].text), n.s, &g);
        CHECK(status == DD_EVALUE || status == DD_EFORMAT, "row %zu: status %d", i, status);
        CHECK(status != DD_OK && says(refused[i].word), "row %zu: '%s' says nothing of '%s'", i,
              dd_message(), refused[i].word);
        if (status == DD_OK)
            dd_graph_destroy(g);
    }
    net_free(&n);
    /* every cut and a thousand flipped bytes of a real one: refused or read, never a crash */
    char *text;
    net_random(&n, 77, 10);
    net_must(dd_graph_to_json(n.g, n.s, &text));
    size_t length = strlen(text);
    for (size_t cut = 0; cut < length; cut += cut < 300 ? 1 : 37)
        CHECK(dd_graph_from_json(text, cut, n.s, &g) != DD_OK, "cut at %zu", cut);
    for (int k = 0; k < 1000; k++) {
        size_t at = dd_stream_below(&n.random, (uint32_t)length);
        char old = text[at];
        text[at] = (char)dd_stream_below(&n.random, 256);
        if (dd_graph_from_json(text, length, n.s, &g) == DD_OK)
            dd_graph_destroy(g);
        text[at] = old;
    }
    dd_free(text);
    net_free(&n);
}

/* ---- attributes keep their values ---------------------------------------------------------- */

static void check_attributes(void) {
    net n;
    dd_graph *read;
    char *text;
    net_init(&n, 5);
    int x = net_input(&n, "x \"quoted\" \\ \t \xc3\xa9", 3);
    dd_unary_params p = {.kind = DD_CLIP, .a = -INFINITY, .b = 0.1 + 0.2};
    int y = net_op(&n, "unary", &p, &x, 1);
    p = (dd_unary_params){.kind = DD_CLIP, .a = 5e-324, .b = 1.7976931348623157e308};
    y = net_op(&n, "unary", &p, &y, 1);
    net_must(dd_graph_output(n.g, "y", y));
    net_must(dd_graph_to_json(n.g, n.s, &text));
    dd_status status = dd_graph_from_json(text, strlen(text), n.s, &read);
    CHECK(status == DD_OK, "%s", dd_message());
    if (status == DD_OK) {
        for (size_t i = 0; i < 2; i++)
            CHECK(memcmp(read->nodes[i].params, n.g->nodes[i].params, sizeof p) == 0,
                  "attributes of node %zu", i);
        CHECK(strcmp(read->values[0].name, n.g->values[x].name) == 0, "a name with escapes");
        dd_graph_destroy(read);
    }
    dd_free(text);
    net_free(&n);
}

/* ---- every allocation failure -------------------------------------------------------------- */

static dd_status whole_life(const net *n) {
    dd_status status;
    dd_graph *training = NULL, *deployed = NULL, *read = NULL, *copy = NULL;
    dd_store *store = NULL, *folded = NULL;
    dd_interpreter *it = NULL;
    dd_channel_ids *ids = NULL;
    dd_type *types = NULL;
    char *text = NULL;
    DD_TRY_DONE(dd_store_copy(n->s, &store));
    DD_TRY_DONE(dd_graph_copy(n->g, &copy));
    DD_TRY_DONE(dd_graph_prune_dead(copy));
    DD_TRY_DONE(dd_alloc_array(copy->n_values, sizeof *types, &types));
    DD_TRY_DONE(dd_graph_infer(copy, store, &image, types));
    DD_TRY_DONE(dd_channels_create(copy, store, types, &ids));
    DD_TRY_DONE(dd_graph_differentiate(copy, store, true, &training));
    DD_TRY_DONE(dd_graph_deploy(copy, store, &deployed, &folded));
    DD_TRY_DONE(dd_graph_to_json(copy, store, &text));
    DD_TRY_DONE(dd_graph_from_json(text, strlen(text), store, &read));
    DD_TRY_DONE(dd_interpreter_create(training, store, &image, 0, &it));
done:
    dd_channels_destroy(ids);
    dd_interpreter_destroy(it);
    dd_graph_destroy(training);
    dd_graph_destroy(deployed);
    dd_graph_destroy(read);
    dd_graph_destroy(copy);
    dd_store_destroy(store);
    dd_store_destroy(folded);
    dd_free(types);
    dd_free(text);
    return status;
}

static void check_allocation_failures(void) {
    net n;
    net_random(&n, 11, 8);
    uint64_t before = dd_alloc_calls(), live = dd_alloc_live();
    net_must(whole_life(&n));
    uint64_t calls = dd_alloc_calls() - before;
    for (uint64_t k = 1; k <= calls; k++) {
        dd_alloc_fail_at(k);
        dd_status status = whole_life(&n);
        dd_alloc_fail_at(0);
        CHECK(status == DD_ENOMEM, "failure %d of %d gave %d", (int)k, (int)calls, status);
        CHECK(dd_alloc_live() == live, "failure %d leaks", (int)k);
    }
    net_free(&n);
}

int main(void) {
    dd_stream r;
    dd_stream_init(&r, 9, 0, 0, DD_FOR_TEST);
    for (size_t k = 0; k < sizeof picture / sizeof *picture; k++)
        picture[k] = dd_stream_range(&r, -1, 1);
    check_store();
    check_many_names();
    check_refusals();
    check_types();
    check_dead();
    check_random_graphs();
    check_attributes();
    check_bad_json();
    check_many_inputs();
    check_allocation_failures();
    CHECK(dd_alloc_live() == 0, "%llu blocks leak", (unsigned long long)dd_alloc_live());
    return check_done("check_graph");
}
