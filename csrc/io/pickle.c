/* A stack, a memo and a table of operations, as Python's own machine has them; but what goes on the
 * stack are numbers of values, and nothing is ever called: the few names that a file may refer to
 * are rows of a table here, and "calling" one builds a tensor or an empty dict.
 *
 * An operation takes at least a byte of the program and makes at most one value, so the number of
 * values is bounded by the program's length, and so is the memo. Items of all containers lie in one
 * array of numbers, where each stands for an operation that pushed it.
 *
 * The operations are those of protocols 2 to 5 (Lib/pickletools.py describes them) that builtin
 * values and tensors are written with. Those that build other objects (INST, OBJ, NEWOBJ, EXT1 …)
 * have no row, and neither have protocol 0's texts, which torch never writes. */
#include "io/pickle.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/json.h"

#define MARK UINT32_MAX    /* on the stack: where a run of items begins */
#define NOTHING UINT32_MAX /* in the memo: a place that was not written */

typedef struct machine {
    const dd_pickle_source *source;
    dd_torch_file *f;
    const unsigned char *at, *end;
    size_t length;
    uint32_t *stack, *memo;
    size_t depth, stack_capacity, memo_size, memo_count;
} machine;

/* The names that a file may refer to: storages first, in the order of dd_torch_type. */
typedef enum name_id { CALL_DICT = DD_TORCH_TYPES, CALL_SIZE, CALL_TENSOR, CALL_PARAMETER } name_id;
static const struct {
    const char *module, *attribute, *whole;
} names[] = {
    {"torch", "FloatStorage", "torch.FloatStorage"},
    {"torch", "DoubleStorage", "torch.DoubleStorage"},
    {"torch", "HalfStorage", "torch.HalfStorage"},
    {"torch", "BFloat16Storage", "torch.BFloat16Storage"},
    {"torch", "LongStorage", "torch.LongStorage"},
    {"torch", "IntStorage", "torch.IntStorage"},
    {"torch", "ShortStorage", "torch.ShortStorage"},
    {"torch", "CharStorage", "torch.CharStorage"},
    {"torch", "ByteStorage", "torch.ByteStorage"},
    {"torch", "BoolStorage", "torch.BoolStorage"},
    {"collections", "OrderedDict", "collections.OrderedDict"},
    {"torch", "Size", "torch.Size"},
    {"torch._utils", "_rebuild_tensor_v2", "torch._utils._rebuild_tensor_v2"},
    {"torch._utils", "_rebuild_parameter", "torch._utils._rebuild_parameter"},
};

/* ---- messages, bytes, stack ---------------------------------------------------------------- */

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static dd_status(fail)(const machine *m, const char *format, ...) {
    char why[256];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    return dd_fail(DD_EFORMAT, "checkpoint: %s: its pickle is damaged (%s)", m->source->name, why);
}
#define fail(...) dd_failed((fail)(__VA_ARGS__)) /* never DD_OK; see base/error.h */

/* The next n bytes of the program. Every read of the program goes through here or the next two. */
static dd_status take(machine *m, uint64_t n, const unsigned char **bytes) {
    if (n > (size_t)(m->end - m->at))
        return fail(m, "it ends within an operation");
    *bytes = m->at;
    m->at += n;
    return DD_OK;
}

/* The next n bytes (1, 2, 4 or 8) as a number, little-endian. */
static dd_status take_number(machine *m, int n, uint64_t *number) {
    const unsigned char *b = NULL;
    DD_TRY(take(m, (uint64_t)n, &b));
    *number = 0;
    for (int i = 0; i < n; i++)
        *number |= (uint64_t)b[i] << 8 * i;
    return DD_OK;
}

/* Up to the next newline, which is passed. */
static dd_status take_line(machine *m, const char **line, size_t *length) {
    const unsigned char *end = memchr(m->at, '\n', (size_t)(m->end - m->at));
    if (!end)
        return fail(m, "a name does not end");
    *line = (const char *)m->at;
    *length = (size_t)(end - m->at);
    m->at = end + 1;
    return DD_OK;
}

static dd_status push(machine *m, uint32_t value) {
    DD_TRY(dd_reserve(&m->stack, &m->stack_capacity, m->depth + 1, sizeof *m->stack));
    m->stack[m->depth++] = value;
    return DD_OK;
}

/* Makes a value and pushes it. */
static dd_status push_new(machine *m, const dd_torch_value *v) {
    dd_torch_file *f = m->f;
    DD_TRY(dd_reserve(&f->values, &f->values_capacity, f->n_values + 1, sizeof *f->values));
    f->values[f->n_values] = *v;
    return push(m, (uint32_t)f->n_values++);
}

static dd_status pop(machine *m, uint32_t *value) {
    if (!m->depth || m->stack[m->depth - 1] == MARK)
        return fail(m, "a value is missing on the stack");
    *value = m->stack[--m->depth];
    return DD_OK;
}

/* The value on top, which stays there. The pointer is good until the next value is made. */
static dd_status top(machine *m, dd_torch_value **value) {
    if (!m->depth || m->stack[m->depth - 1] == MARK)
        return fail(m, "a value is missing on the stack");
    *value = &m->f->values[m->stack[m->depth - 1]];
    return DD_OK;
}

/* Takes what stands above the last mark, and the mark: *items points into the stack, until the next
 * push. */
static dd_status pop_items(machine *m, const uint32_t **items, size_t *n) {
    size_t at = m->depth;
    while (at && m->stack[at - 1] != MARK)
        at--;
    if (!at)
        return fail(m, "a mark is missing on the stack");
    *items = m->stack + at;
    *n = m->depth - at;
    m->depth = at - 1;
    return DD_OK;
}

/* ---- plain values -------------------------------------------------------------------------- */

/* None, True, False and the empty containers. */
static dd_status run_constant(machine *m, int op) {
    dd_torch_value v = {.kind = op == 'N'   ? DD_TORCH_NONE
                                : op == ')' ? DD_TORCH_TUPLE
                                : op == ']' ? DD_TORCH_LIST
                                : op == '}' ? DD_TORCH_DICT
                                            : DD_TORCH_FLAG};
    if (v.kind == DD_TORCH_FLAG)
        v.as.flag = op == 0x88;
    return push_new(m, &v);
}

/* BININT (signed), BININT1 and BININT2 */
static dd_status run_int(machine *m, int op) {
    uint64_t n = 0;
    DD_TRY(take_number(m, op == 'J' ? 4 : op == 'K' ? 1 : 2, &n));
    dd_torch_value v = {.kind = DD_TORCH_WHOLE};
    v.as.whole = op == 'J' ? (int64_t)(int32_t)(uint32_t)n : (int64_t)n;
    return push_new(m, &v);
}

/* LONG1: up to 255 bytes in two's complement. What fits in 64 bits is a WHOLE however long it is
 * written, so that sizes and counts have one form. */
static dd_status run_long(machine *m, int op) {
    (void)op;
    uint64_t n = 0, low = 0;
    const unsigned char *b = NULL;
    DD_TRY(take_number(m, 1, &n));
    DD_TRY(take(m, n, &b));
    unsigned char sign = n && b[n - 1] & 0x80 ? 0xff : 0;
    bool fits = true;
    for (uint64_t i = 0; i < 8; i++)
        low |= (uint64_t)(i < n ? b[i] : sign) << 8 * i;
    for (uint64_t i = 8; i < n; i++)
        fits = fits && b[i] == sign;
    /* the 64th bit is the sign's, too */
    fits = fits && (low >> 63 != 0) == (sign != 0);
    dd_torch_value v = {.kind = fits ? DD_TORCH_WHOLE : DD_TORCH_BIG, .count = (uint32_t)n};
    if (fits)
        v.as.whole = (int64_t)low;
    else
        v.as.bytes = (const char *)b;
    return push_new(m, &v);
}

/* BINFLOAT: the only big-endian one. */
static dd_status run_float(machine *m, int op) {
    (void)op;
    const unsigned char *b = NULL;
    uint64_t bits = 0;
    DD_TRY(take(m, 8, &b));
    for (int i = 0; i < 8; i++)
        bits = bits << 8 | b[i];
    dd_torch_value v = {.kind = DD_TORCH_NUMBER};
    memcpy(&v.as.number, &bits, sizeof bits);
    return push_new(m, &v);
}

/* BINUNICODE, SHORT_BINUNICODE, BINUNICODE8 */
static dd_status run_text(machine *m, int op) {
    uint64_t n = 0;
    const unsigned char *b = NULL;
    DD_TRY(take_number(m, op == 'X' ? 4 : op == 0x8c ? 1 : 8, &n));
    DD_TRY(take(m, n, &b));
    for (uint64_t i = 0; i < n;) {
        size_t bytes = b[i] < 0x80 ? 1 : dd_utf8_length(b + i);
        if (!bytes || bytes > n - i)
            return fail(m, "a text is no UTF-8");
        i += bytes;
    }
    dd_torch_value v = {.kind = DD_TORCH_TEXT, .count = (uint32_t)n};
    v.as.bytes = (const char *)b;
    return push_new(m, &v);
}

/* PROTO and FRAME say nothing that matters here. */
static dd_status run_nothing(machine *m, int op) {
    uint64_t ignored = 0;
    return take_number(m, op == 0x80 ? 1 : 8, &ignored);
}

/* A mark is no value: nothing but pop_items() takes it from the stack. */
static dd_status run_mark(machine *m, int op) {
    (void)op;
    return push(m, MARK);
}

/* ---- the memo ------------------------------------------------------------------------------ */

/* BINPUT, LONG_BINPUT, MEMOIZE. Every put takes a byte at least, so numbers beyond the program's
 * length are no pickler's. */
static dd_status run_put(machine *m, int op) {
    uint64_t place = m->memo_count;
    dd_torch_value *v;
    if (op != 0x94)
        DD_TRY(take_number(m, op == 'q' ? 1 : 4, &place));
    DD_TRY(top(m, &v));
    if (place >= m->length)
        return fail(m, "memo place %" PRIu64 " came", place);
    size_t before = m->memo_size;
    DD_TRY(dd_reserve(&m->memo, &m->memo_size, (size_t)place + 1, sizeof *m->memo));
    for (size_t i = before; i < m->memo_size; i++)
        m->memo[i] = NOTHING;
    m->memo_count += m->memo[place] == NOTHING;
    m->memo[place] = m->stack[m->depth - 1];
    return DD_OK;
}

/* The same value once more: this is how lists come to hold themselves. */
static dd_status run_get(machine *m, int op) {
    uint64_t place = 0;
    DD_TRY(take_number(m, op == 'h' ? 1 : 4, &place));
    if (place >= m->memo_size || m->memo[place] == NOTHING)
        return fail(m, "memo place %" PRIu64 " is empty", place);
    return push(m, m->memo[place]);
}

/* ---- containers ---------------------------------------------------------------------------- */

/* Appends to a value's items. They lie in one array of the file: a container that outgrows its
 * place moves to the end with twice the room, so all places together are at most four times what
 * they hold. */
static dd_status add_items(machine *m, uint32_t value, const uint32_t *items, size_t n) {
    dd_torch_file *f = m->f;
    dd_torch_value *v = &f->values[value];
    size_t count = (size_t)v->count + n;
    if (count > INT32_MAX)
        return fail(m, "a container has more than 2^31 items");
    if (count > v->capacity) {
        size_t room = v->count ? 2 * count : count, first = f->n_items;
        DD_TRY(dd_reserve(&f->items, &f->items_capacity, first + room, sizeof *f->items));
        if (v->count)
            memcpy(f->items + first, f->items + v->as.first, v->count * sizeof *f->items);
        f->n_items += room;
        v->as.first = first;
        v->capacity = (uint32_t)room;
    }
    if (n)
        memcpy(f->items + v->as.first + v->count, items, n * sizeof *items);
    v->count = (uint32_t)count;
    return DD_OK;
}

/* TUPLE1, TUPLE2, TUPLE3, and TUPLE of what stands above the mark. */
static dd_status run_tuple(machine *m, int op) {
    const uint32_t *items;
    size_t n = (size_t)(op - 0x84);
    if (op == 't') {
        DD_TRY(pop_items(m, &items, &n));
    } else {
        uint32_t last;
        for (size_t i = 0; i < n; i++)
            DD_TRY(pop(m, &last));
        items = m->stack + m->depth;
    }
    /* The push below may write over the items or move them: they are copied first. */
    dd_torch_file *f = m->f;
    dd_torch_value v = {.kind = DD_TORCH_TUPLE};
    DD_TRY(dd_reserve(&f->values, &f->values_capacity, f->n_values + 1, sizeof *f->values));
    f->values[f->n_values] = v;
    DD_TRY(add_items(m, (uint32_t)f->n_values, items, n));
    return push(m, (uint32_t)f->n_values++);
}

/* APPEND, APPENDS */
static dd_status run_append(machine *m, int op) {
    const uint32_t *items;
    uint32_t item;
    size_t n = 1;
    dd_torch_value *list;
    if (op == 'e') {
        DD_TRY(pop_items(m, &items, &n));
    } else {
        DD_TRY(pop(m, &item));
        items = &item;
    }
    DD_TRY(top(m, &list));
    if (list->kind != DD_TORCH_LIST)
        return fail(m, "items for something that is no list");
    return add_items(m, m->stack[m->depth - 1], items, n);
}

/* SETITEM, SETITEMS */
static dd_status run_set(machine *m, int op) {
    const uint32_t *items;
    uint32_t pair[2];
    size_t n = 2;
    dd_torch_value *dict;
    if (op == 'u') {
        DD_TRY(pop_items(m, &items, &n));
    } else {
        DD_TRY(pop(m, &pair[1]));
        DD_TRY(pop(m, &pair[0]));
        items = pair;
    }
    DD_TRY(top(m, &dict));
    if (dict->kind != DD_TORCH_DICT || n % 2)
        return fail(m, "items for something that is no dict");
    for (size_t i = 0; i < n; i += 2) {
        dd_torch_kind kind = m->f->values[items[i]].kind;
        if (kind != DD_TORCH_TEXT && kind != DD_TORCH_WHOLE)
            return fail(m, "a key that is neither text nor a whole number");
    }
    return add_items(m, m->stack[m->depth - 1], items, n);
}

/* BUILD: a module's state dict carries `_metadata`, which says nothing about its tensors. */
static dd_status run_build(machine *m, int op) {
    (void)op;
    uint32_t state;
    dd_torch_value *dict;
    DD_TRY(pop(m, &state));
    DD_TRY(top(m, &dict));
    return dict->kind == DD_TORCH_DICT ? DD_OK : fail(m, "a state for something that is no dict");
}

/* ---- names, storages and tensors ----------------------------------------------------------- */

static bool same(const char *text, size_t length, const char *word) {
    return strlen(word) == length && !memcmp(text, word, length);
}

static dd_status push_name(machine *m, const char *module, size_t module_length,
                           const char *attribute, size_t length) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (same(module, module_length, names[i].module) &&
            same(attribute, length, names[i].attribute)) {
            dd_torch_value v = {.kind = DD_TORCH_NAME, .count = (uint32_t)i};
            v.as.bytes = names[i].whole;
            return push_new(m, &v);
        }
    return dd_fail(DD_EFORMAT, "checkpoint: %s holds code (%.*s.%.*s), refused", m->source->name,
                   (int)(module_length < 80 ? module_length : 80), module,
                   (int)(length < 80 ? length : 80), attribute);
}

/* GLOBAL */
static dd_status run_global(machine *m, int op) {
    (void)op;
    const char *module, *attribute;
    size_t module_length, length;
    DD_TRY(take_line(m, &module, &module_length));
    DD_TRY(take_line(m, &attribute, &length));
    return push_name(m, module, module_length, attribute, length);
}

/* STACK_GLOBAL */
static dd_status run_stack_global(machine *m, int op) {
    (void)op;
    uint32_t attribute, module;
    DD_TRY(pop(m, &attribute));
    DD_TRY(pop(m, &module));
    const dd_torch_value *a = &m->f->values[attribute], *b = &m->f->values[module];
    if (a->kind != DD_TORCH_TEXT || b->kind != DD_TORCH_TEXT)
        return fail(m, "a name that is no text");
    return push_name(m, b->as.bytes, b->count, a->as.bytes, a->count);
}

/* The bytes of a storage: the member data/<key>, of exactly the announced length. */
static dd_status find_storage(machine *m, const dd_torch_value *key, int64_t count,
                              dd_torch_storage *s) {
    const dd_pickle_source *from = m->source;
    int shown = (int)(key->count < 80 ? key->count : 80);
    const dd_zip_member *member = NULL;
    char path[1024];
    if (from->folder_length + key->count < sizeof path - 8) {
        int n = snprintf(path, sizeof path, "%.*s/data/", (int)from->folder_length, from->folder);
        memcpy(path + n, key->as.bytes, key->count);
        member = dd_zip_find(from->zip, path, (size_t)n + key->count);
    }
    if (!member)
        return dd_fail(DD_EFORMAT, "checkpoint: %s is incomplete: data/%.*s is missing", from->name,
                       shown, key->as.bytes);
    size_t bytes = dd_torch_type_bytes(s->type);
    if (count < 0 || (uint64_t)count > SIZE_MAX / bytes || (size_t)count * bytes != member->size)
        return dd_fail(DD_EFORMAT,
                       "checkpoint: %s: data/%.*s has %zu bytes, %" PRId64
                       " elements of %zu were announced",
                       from->name, shown, key->as.bytes, member->size, count, bytes);
    s->data = member->data;
    s->count = (size_t)count;
    return DD_OK;
}

/* A row an id; rows of one storage have the same data. */
static dd_status push_storage(machine *m, const dd_torch_storage *s) {
    dd_torch_file *f = m->f;
    dd_torch_value v = {.kind = DD_TORCH_STORAGE};
    DD_TRY(dd_reserve(&f->storages, &f->storages_capacity, f->n_storages + 1, sizeof *f->storages));
    f->storages[f->n_storages] = *s;
    v.as.index = f->n_storages++;
    return push_new(m, &v);
}

/* BINPERSID: ("storage", type, key, device, length) */
static dd_status run_persistent(machine *m, int op) {
    (void)op;
    uint32_t id;
    const dd_torch_file *f = m->f;
    DD_TRY(pop(m, &id));
    const dd_torch_value *v = &f->values[id];
    if (v->kind != DD_TORCH_TUPLE || v->count != 5 ||
        !dd_torch_is(dd_torch_item(f, v, 0), "storage"))
        return fail(m, "a persistent id that is no storage");
    const dd_torch_value *type = dd_torch_item(f, v, 1), *key = dd_torch_item(f, v, 2),
                         *count = dd_torch_item(f, v, 4);
    if (type->kind != DD_TORCH_NAME || type->count >= DD_TORCH_TYPES)
        return fail(m, "a persistent id that is no storage");
    if (key->kind != DD_TORCH_TEXT || count->kind != DD_TORCH_WHOLE)
        return fail(m, "a storage without key or length");
    dd_torch_storage s = {.type = (dd_torch_type)type->count};
    DD_TRY(find_storage(m, key, count->as.whole, &s));
    return push_storage(m, &s);
}

/* Whether a value is a run of whole numbers from 0 on: sizes or strides. */
static bool all_whole(const dd_torch_file *f, const dd_torch_value *v) {
    bool good = v->kind == DD_TORCH_TUPLE || v->kind == DD_TORCH_LIST;
    for (uint32_t i = 0; good && i < v->count; i++) {
        const dd_torch_value *n = dd_torch_item(f, v, i);
        good = n->kind == DD_TORCH_WHOLE && n->as.whole >= 0;
    }
    return good;
}

/* Sets the number of elements; whether all of them lie in a storage of `room` elements. */
static bool tensor_fits(const dd_torch_file *f, dd_torch_tensor *t, size_t room) {
    int64_t n = 1, last = t->offset, step;
    for (int i = 0; i < t->rank; i++)
        n = dd_torch_size(f, t, i) ? n : 0; /* an empty tensor fits anywhere */
    for (int i = 0; n && i < t->rank; i++) {
        int64_t size = dd_torch_size(f, t, i);
        if (__builtin_mul_overflow(n, size, &n) ||
            __builtin_mul_overflow(size - 1, dd_torch_stride(f, t, i), &step) ||
            __builtin_add_overflow(last, step, &last))
            return false;
    }
    t->count = n;
    return !n || ((uint64_t)last < room && (uint64_t)n <= room);
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks) */
static dd_status push_tensor(machine *m, const dd_torch_value *arguments) {
    dd_torch_file *f = m->f;
    if (arguments->count < 4)
        return fail(m, "a tensor without storage, size or stride");
    const dd_torch_value *storage = dd_torch_item(f, arguments, 0),
                         *offset = dd_torch_item(f, arguments, 1),
                         *size = dd_torch_item(f, arguments, 2),
                         *stride = dd_torch_item(f, arguments, 3);
    if (storage->kind != DD_TORCH_STORAGE || !all_whole(f, size) || !all_whole(f, stride) ||
        size->count != stride->count || size->count > DD_TORCH_MAX_RANK)
        return fail(m, "a tensor without storage, size or stride");
    if (offset->kind != DD_TORCH_WHOLE || offset->as.whole < 0)
        return fail(m, "a tensor whose offset is no number from 0 on");
    /* Items of a tuple never change, those of a list never where they lie now. */
    dd_torch_tensor t = {.storage = storage->as.index,
                         .rank = (int)size->count,
                         .sizes = size->as.first,
                         .strides = stride->as.first,
                         .offset = offset->as.whole};
    size_t room = f->storages[t.storage].count;
    if (!tensor_fits(f, &t, room))
        return dd_fail(DD_EFORMAT,
                       "checkpoint: %s: a tensor of %d dimensions and offset %" PRId64
                       " does not fit into its storage of %zu elements",
                       m->source->name, t.rank, t.offset, room);
    DD_TRY(dd_reserve(&f->tensors, &f->tensors_capacity, f->n_tensors + 1, sizeof *f->tensors));
    f->tensors[f->n_tensors] = t;
    dd_torch_value v = {.kind = DD_TORCH_TENSOR};
    v.as.index = f->n_tensors++;
    return push_new(m, &v);
}

/* REDUCE */
static dd_status run_reduce(machine *m, int op) {
    (void)op;
    uint32_t arguments, function;
    dd_torch_file *f = m->f;
    DD_TRY(pop(m, &arguments));
    DD_TRY(pop(m, &function));
    const dd_torch_value *a = &f->values[arguments], *call = &f->values[function];
    if (call->kind != DD_TORCH_NAME || a->kind != DD_TORCH_TUPLE)
        return fail(m, "a call of something that is no allowed name");
    const dd_torch_value *first = a->count ? dd_torch_item(f, a, 0) : NULL;
    if (call->count == CALL_DICT && !first) {
        dd_torch_value v = {.kind = DD_TORCH_DICT};
        return push_new(m, &v);
    }
    if (call->count == CALL_SIZE && a->count == 1 &&
        (first->kind == DD_TORCH_TUPLE || first->kind == DD_TORCH_LIST)) {
        /* a tuple over the same items */
        dd_torch_value v = {
            .kind = DD_TORCH_TUPLE, .count = first->count, .capacity = first->count};
        v.as.first = first->as.first;
        return push_new(m, &v);
    }
    if (call->count == CALL_TENSOR)
        return push_tensor(m, a);
    if (call->count == CALL_PARAMETER && first && first->kind == DD_TORCH_TENSOR)
        return push(m, f->items[a->as.first]);
    return fail(m, "a call of %s", call->as.bytes);
}

/* ---- the machine --------------------------------------------------------------------------- */

/* An operation reads its operands from the program and works on the stack. */
typedef dd_status (*operation)(machine *m, int op);
static const operation operations[256] = {
    [0x80] = run_nothing,   [0x95] = run_nothing,  [0x94] = run_put,     ['q'] = run_put,
    ['r'] = run_put,        ['h'] = run_get,       ['j'] = run_get,      ['N'] = run_constant,
    [0x88] = run_constant,  [0x89] = run_constant, [')'] = run_constant, [']'] = run_constant,
    ['}'] = run_constant,   ['J'] = run_int,       ['K'] = run_int,      ['M'] = run_int,
    [0x8a] = run_long,      ['G'] = run_float,     ['X'] = run_text,     [0x8c] = run_text,
    [0x8d] = run_text,      ['('] = run_mark,      [0x85] = run_tuple,   [0x86] = run_tuple,
    [0x87] = run_tuple,     ['t'] = run_tuple,     ['a'] = run_append,   ['e'] = run_append,
    ['s'] = run_set,        ['u'] = run_set,       ['c'] = run_global,   [0x93] = run_stack_global,
    ['Q'] = run_persistent, ['R'] = run_reduce,    ['b'] = run_build,
};

static dd_status run(machine *m) {
    for (;;) {
        const unsigned char *op = NULL;
        if (m->at == m->end)
            return fail(m, "it has no end");
        DD_TRY(take(m, 1, &op));
        if (*op == '.')
            break;
        if (!operations[*op])
            return dd_fail(DD_EFORMAT,
                           "checkpoint: %s holds a pickle operation that tensors do not need "
                           "(0x%02x), refused",
                           m->source->name, *op);
        DD_TRY(operations[*op](m, *op));
    }
    if (m->depth != 1 || m->stack[0] == MARK)
        return fail(m, "%zu values are left", m->depth);
    m->f->root = m->stack[0];
    return DD_OK;
}

dd_status dd_pickle_run(const unsigned char *program, size_t length, const dd_pickle_source *source,
                        dd_torch_file *file) {
    machine m = {
        .source = source, .f = file, .at = program, .end = program + length, .length = length};
    if (length > INT32_MAX) /* numbers of values stay below MARK */
        return fail(&m, "it has more than 2 GiB");
    dd_status status = run(&m);
    dd_free(m.stack);
    dd_free(m.memo);
    return status;
}
