/* Model files for tests: growing bytes, a pickle writer, a zip writer, and a small detector's file.
 * Written from the formats' descriptions and not from our reader, which reads what comes out. Every
 * function aborts when memory is short. */
#ifndef DD_TESTS_MODEL_FILES_H
#define DD_TESTS_MODEL_FILES_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "graph/graph.h"
#include "io/checksum.h"
#include "nets.h"

/* ---- bytes; behind them there is always a NUL ----------------------------------------------- */

typedef struct bytes {
    unsigned char *data;
    size_t length, capacity;
} bytes;

/* Not inlined: gcc takes what realloc() gave for the room that was asked for before. */
static __attribute__((noinline, unused)) void bytes_add(bytes *b, const void *data, size_t n) {
    if (b->length + n + 1 > b->capacity) {
        b->capacity = 2 * (b->length + n + 1);
        b->data = realloc(b->data, b->capacity);
        if (!b->data)
            abort();
    }
    if (n)
        memcpy(b->data + b->length, data, n);
    b->length += n;
    b->data[b->length] = 0;
}

static inline void bytes_free(bytes *b) {
    free(b->data);
    *b = (bytes){0};
}

/* The low n bytes of a number, little-endian. */
static inline void bytes_number(bytes *b, uint64_t number, int n) {
    for (int i = 0; i < n; i++) {
        unsigned char c = (unsigned char)(number >> 8 * i);
        bytes_add(b, &c, 1);
    }
}

/* ---- a pickle ------------------------------------------------------------------------------- */

static inline void put_op(bytes *b, char op) {
    bytes_add(b, &op, 1);
}

static inline void put_text(bytes *b, const char *text) {
    put_op(b, 'X');
    bytes_number(b, strlen(text), 4);
    bytes_add(b, text, strlen(text));
}

static inline void put_whole(bytes *b, int64_t n) {
    put_op(b, '\x8a'); /* LONG1 of 8 bytes: any int64 */
    put_op(b, 8);
    bytes_number(b, (uint64_t)n, 8);
}

static inline void put_double(bytes *b, double d) {
    uint64_t bits;
    memcpy(&bits, &d, sizeof bits);
    put_op(b, 'G');
    for (int i = 7; i >= 0; i--)
        put_op(b, (char)(bits >> 8 * i));
}

static inline void put_bool(bytes *b, int flag) {
    put_op(b, flag ? '\x88' : '\x89');
}

static inline void put_name(bytes *b, const char *module, const char *attribute) {
    char text[200];
    int n = snprintf(text, sizeof text, "c%s\n%s\n", module, attribute);
    bytes_add(b, text, (size_t)n);
}

static inline void put_wholes(bytes *b, const int64_t *numbers, int n) {
    put_op(b, '(');
    for (int i = 0; i < n; i++)
        put_whole(b, numbers[i]);
    put_op(b, 't');
}

/* A tensor over the storage data/<key> of `count` elements of torch.<kind>Storage. */
static inline void put_tensor(bytes *b, const char *kind, int key, int64_t count, int64_t offset,
                              int rank, const int64_t *sizes, const int64_t *strides) {
    char text[40];
    put_name(b, "torch._utils", "_rebuild_tensor_v2");
    bytes_add(b, "((", 2);
    put_text(b, "storage");
    snprintf(text, sizeof text, "%sStorage", kind);
    put_name(b, "torch", text);
    snprintf(text, sizeof text, "%d", key);
    put_text(b, text);
    put_text(b, "cpu");
    put_whole(b, count);
    bytes_add(b, "tQ", 2);
    put_whole(b, offset);
    put_wholes(b, sizes, rank);
    put_wholes(b, strides, rank);
    put_bool(b, 0);
    put_name(b, "collections", "OrderedDict");
    bytes_add(b, ")RtR", 4);
}

/* A dense tensor of a whole storage. */
static inline void put_dense(bytes *b, const char *kind, int key, const dd_type *type) {
    int64_t strides[DD_MAX_RANK], stride = 1;
    for (int d = type->rank - 1; d >= 0; d--) {
        strides[d] = stride;
        stride *= type->dims[d];
    }
    put_tensor(b, kind, key, stride, 0, type->rank, type->dims, strides);
}

/* ---- a zip ---------------------------------------------------------------------------------- */

typedef struct zip_writer {
    bytes file, directory;
    int members;
    const char *folder;
} zip_writer;

static inline void zip_add(zip_writer *z, const char *name, const void *data, size_t n) {
    char path[300];
    size_t at = z->file.length;
    int length = snprintf(path, sizeof path, "%s/%s", z->folder, name);
    uint32_t crc = dd_crc32(data, n);
    bytes_add(&z->file, "PK\3\4\x14\0\0\0\0\0\0\0\0\0", 14);
    bytes_add(&z->directory, "PK\1\2\x14\3\x14\0\0\0\0\0\0\0\0\0", 16);
    bytes *both[] = {&z->file, &z->directory};
    for (int i = 0; i < 2; i++) {
        bytes_number(both[i], crc, 4);
        bytes_number(both[i], n, 4);
        bytes_number(both[i], n, 4);
        bytes_number(both[i], (uint64_t)length, 2);
        bytes_number(both[i], 0, 2);
    }
    bytes_add(&z->directory, "\0\0\0\0\0\0\0\0\0\0", 10);
    bytes_number(&z->directory, at, 4);
    for (int i = 0; i < 2; i++)
        bytes_add(both[i], path, (size_t)length);
    bytes_add(&z->file, data, n);
    z->members++;
}

/* The checksum at the end of our own files, made anew over what stands before. */
static inline void file_seal(bytes *file) {
    uint8_t digest[32];
    dd_sha256(file->data, file->length - 64, digest);
    for (int i = 0; i < 32; i++) {
        char hex[3];
        snprintf(hex, sizeof hex, "%02x", digest[i]);
        memcpy(file->data + file->length - 64 + 2 * i, hex, 2);
    }
}

/* Ends the file, with the checksum where `sealed`; gives the bytes away. */
static inline bytes zip_end(zip_writer *z, int sealed) {
    uint64_t at = z->file.length;
    bytes_add(&z->file, z->directory.data, z->directory.length);
    bytes_add(&z->file, "PK\5\6\0\0\0\0", 8);
    bytes_number(&z->file, (uint64_t)z->members, 2);
    bytes_number(&z->file, (uint64_t)z->members, 2);
    bytes_number(&z->file, z->directory.length, 4);
    bytes_number(&z->file, at, 4);
    bytes_number(&z->file, sealed ? 7 + 64 : 0, 2);
    if (sealed) {
        char zeros[64] = {0};
        bytes_add(&z->file, "sha256:", 7);
        bytes_add(&z->file, zeros, sizeof zeros);
        file_seal(&z->file);
    }
    bytes_free(&z->directory);
    return z->file;
}

/* ---- a model's file ------------------------------------------------------------------------- */

/* What stands in meta beside graph and entries; NULL lists and 0 leave a key out. */
typedef struct model_words {
    const char *const *names;
    int n_names, imgsz;
    const int64_t *strides;
    const double *scales, *ratios;
    int n_strides, n_scales, n_ratios;
} model_words;

static inline void put_store(bytes *p, const dd_store *s) {
    static const char *const roles[] = {"trainable", "state", "constant"};
    put_text(p, "state_dict");
    bytes_add(p, "}(", 2);
    for (size_t i = 0; i < s->n; i++) {
        put_text(p, s->entries[i].name);
        put_dense(p, "Float", (int)i, &s->entries[i].type);
    }
    put_op(p, 'u');
    put_text(p, "meta");
    bytes_add(p, "}(", 2);
    put_text(p, "entries");
    bytes_add(p, "](", 2);
    for (size_t i = 0; i < s->n; i++) {
        bytes_add(p, "}(", 2);
        put_text(p, "name");
        put_text(p, s->entries[i].name);
        put_text(p, "role");
        put_text(p, roles[s->entries[i].role]);
        put_text(p, "decay");
        put_bool(p, s->entries[i].decay);
        put_text(p, "lr_factor");
        put_double(p, (double)s->entries[i].lr_factor);
        put_op(p, 'u');
    }
    put_op(p, 'e');
}

static inline void put_doubles(bytes *p, const char *key, const double *numbers, int n) {
    put_text(p, key);
    bytes_add(p, "](", 2);
    for (int i = 0; i < n; i++)
        put_double(p, numbers[i]);
    put_op(p, 'e');
}

/* data.pkl of a model. */
static inline bytes model_pickle(const dd_graph *g, const dd_store *s, const model_words *w) {
    bytes p = {0};
    char *json = NULL;
    bytes_add(&p, "\x80\x02}(", 4);
    put_store(&p, s);
    if (dd_graph_to_json(g, s, &json) != DD_OK)
        abort();
    put_text(&p, "graph");
    put_text(&p, json);
    dd_free(json);
    put_text(&p, "names");
    bytes_add(&p, "](", 2);
    for (int i = 0; i < w->n_names; i++)
        put_text(&p, w->names[i]);
    put_op(&p, 'e');
    put_text(&p, "categories");
    bytes_add(&p, "](", 2);
    for (int i = 0; i < w->n_names; i++)
        put_whole(&p, 10 + i);
    put_op(&p, 'e');
    put_text(&p, "imgsz");
    put_whole(&p, w->imgsz);
    put_text(&p, "model");
    put_text(&p, "test-net");
    put_text(&p, "anchors");
    bytes_add(&p, "}(", 2);
    put_text(&p, "strides");
    put_wholes(&p, w->strides, w->n_strides);
    put_doubles(&p, "scales", w->scales, w->n_scales);
    put_doubles(&p, "ratios", w->ratios, w->n_ratios);
    bytes_add(&p, "uuu.", 4);
    return p;
}

/* The whole file: in our own folder and sealed, or in torch's. */
static inline bytes model_bytes(const bytes *pickle, const dd_store *s, int sealed) {
    zip_writer z = {.folder = sealed ? "deepseek_det" : "archive"};
    zip_add(&z, "data.pkl", pickle->data, pickle->length);
    zip_add(&z, "byteorder", "little", 6);
    for (size_t i = 0; i < s->n; i++) {
        char name[40];
        snprintf(name, sizeof name, "data/%d", (int)i);
        zip_add(&z, name, dd_store_data(s, (int)i), (size_t)s->entries[i].count * sizeof(float));
    }
    zip_add(&z, "version", "3\n", 2);
    return zip_end(&z, sealed);
}

/* ---- a small detector ------------------------------------------------------------------------ */

enum { SIDE = 64, CLASSES = 3 };

static const char *const class_names[CLASSES] = {"cat", "dog", "\xc3\xbc x"};
static const int64_t strides[] = {8};
static const double scales[] = {1, 2}, ratios[] = {1};
static const model_words words = {class_names, CLASSES, SIDE, strides, scales, ratios, 1, 2, 1};

/* Bytes → patches of 4 × 4, every 8 → norm → relu → logits and deltas of two anchors a cell. */
static inline void make_net(net *n) {
    dd_type pixels = {.dtype = DD_U8, .rank = 4, .dims = {-1, -1, -1, 3}};
    dd_dequantize_params unit = {.scale = {1, {1.0 / 255}}, .zero = {1, {0}}};
    dd_reshape_params rows = {.shape = {3, {0, -1, CLASSES}}};
    int x, out;
    net_init(n, 7);
    net_must(dd_graph_input(n->g, "images", &pixels, &x));
    x = net_op(n, "dequantize", &unit, &x, 1);
    dd_conv_params patch = {.stride = {2, {8, 8}}, .groups = 1};
    int in[2] = {x,
                 net_entry(n, "stem.weight", DD_TRAINABLE, 4, (int64_t[]){8, 3, 4, 4}, -.3f, .3f)};
    x = net_op(n, "conv", &patch, in, 2);
    x = net_act(n, net_norm(n, x, 8), DD_RELU);
    out = net_op(n, "reshape", &rows, (int[]){net_conv(n, x, 8, 2 * CLASSES, 1, 1, 1, true)}, 1);
    net_must(dd_graph_output(n->g, "cls", out));
    rows.shape.v[2] = 4;
    out = net_op(n, "reshape", &rows, (int[]){net_conv(n, x, 8, 8, 1, 1, 1, true)}, 1);
    net_must(dd_graph_output(n->g, "box", out));
}

/* The net's file. */
static inline bytes make_file(const net *n, int sealed) {
    bytes pickle = model_pickle(n->g, n->s, &words), file = model_bytes(&pickle, n->s, sealed);
    bytes_free(&pickle);
    return file;
}

#endif
