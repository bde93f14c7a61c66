/* The model file's reader: what was written comes back; files cut short, flipped, or made up with
 * malice are refused with a message, without a crash, a leak, or memory beyond the file's measure.
 */
#include "check.h"
#include "io/model_file.h"
#include "io/torch_file.h"
#include "model_files.h"

static dd_status read_bytes(const bytes *file, dd_model **model) {
    return dd_model_read((const char *)file->data, file->length, "x.pt", model);
}

/* ---- there and back ------------------------------------------------------------------------- */

static void check_same(const net *n, const dd_model *m) {
    char *mine, *theirs;
    CHECK(m->store->n == n->s->n, "%zu entries", m->store->n);
    for (size_t i = 0; i < n->s->n && i < m->store->n; i++) {
        const dd_entry *a = &n->s->entries[i], *b = &m->store->entries[i];
        CHECK(!strcmp(a->name, b->name) && a->role == b->role && a->decay == b->decay &&
                  a->lr_factor == b->lr_factor && dd_type_equal(&a->type, &b->type),
              "%s is another", b->name);
        CHECK(!memcmp(dd_store_data(n->s, (int)i), dd_store_data(m->store, (int)i),
                      (size_t)a->count * sizeof(float)),
              "%s has other numbers", b->name);
    }
    net_must(dd_graph_to_json(n->g, n->s, &mine));
    net_must(dd_graph_to_json(m->graph, m->store, &theirs));
    CHECK(!strcmp(mine, theirs), "another graph");
    dd_free(mine);
    dd_free(theirs);
    CHECK(m->n_classes == CLASSES && m->imgsz == SIDE && !strcmp(m->name, "test-net"), "%d of %d",
          m->n_classes, m->imgsz);
    for (int i = 0; i < CLASSES && i < m->n_classes; i++)
        CHECK(!strcmp(m->classes[i], class_names[i]) && m->categories[i] == 10 + i, "class %d", i);
    CHECK(m->anchors.n_strides == 1 && m->anchors.strides[0] == 8 && m->anchors.n_scales == 2 &&
              m->anchors.scales[1] == 2 && m->anchors.n_ratios == 1 && m->anchors.base == 3,
          "other anchors");
}

static void check_round_trip(void) {
    net n;
    make_net(&n);
    n.s->entries[1].lr_factor = 0.5f;
    for (int sealed = 0; sealed < 2; sealed++) {
        bytes file = make_file(&n, sealed);
        dd_model *m = NULL;
        CHECK(read_bytes(&file, &m) == DD_OK, "%s", dd_message());
        if (m)
            check_same(&n, m);
        dd_model_destroy(m);
        bytes_free(&file);
    }
    net_free(&n);
}

/* A parameter without elements, alone: found by the fuzzer. */
static void check_empty_store(void) {
    net n;
    dd_model *m = NULL;
    int out;
    net_init(&n, 1);
    int in[2] = {net_input(&n, "x", 3),
                 net_entry(&n, "w", DD_TRAINABLE, 2, (int64_t[]){0, 3}, 0, 1)};
    net_must(dd_graph_node(n.g, &dd_op_unary, "y", NULL, in, 1, 0, &out, NULL));
    net_must(dd_graph_output(n.g, "y", out));
    bytes file = make_file(&n, 1);
    CHECK(read_bytes(&file, &m) == DD_OK, "%s", dd_message());
    CHECK(m && m->store->n == 1 && m->store->entries[0].count == 0, "another store");
    dd_model_destroy(m);
    bytes_free(&file);
    net_free(&n);
}

/* The checksums against the standards' own examples. */
static void check_checksums(void) {
    static const struct {
        const char *text;
        uint32_t first, last; /* of the digest's eight words */
    } rows[] = {
        {"", 0xe3b0c442, 0x7852b855},
        {"abc", 0xba7816bf, 0xf20015ad},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 0x248d6a61, 0x19db06c1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t d[32];
        dd_sha256(rows[i].text, strlen(rows[i].text), d);
        uint32_t first = (uint32_t)d[0] << 24 | d[1] << 16 | d[2] << 8 | d[3];
        uint32_t last = (uint32_t)d[28] << 24 | d[29] << 16 | d[30] << 8 | d[31];
        CHECK(first == rows[i].first && last == rows[i].last, "%08x %08x", first, last);
    }
    CHECK(dd_crc32("123456789", 9) == 0xcbf43926, "%08x", dd_crc32("123456789", 9));
    CHECK(dd_crc32("", 0) == 0, "%08x", dd_crc32("", 0));
}

/* {"w": the tensor} in torch's folder over one storage. */
static bytes one_tensor(const bytes *pickle, const void *data, size_t n, const char *order) {
    zip_writer z = {.folder = "archive"};
    zip_add(&z, "data.pkl", pickle->data, pickle->length);
    if (order)
        zip_add(&z, "byteorder", order, strlen(order));
    zip_add(&z, "data/0", data, n);
    return zip_end(&z, 0);
}

/* Every type, both byte orders, and a turned view: (3, 2) of 0 … 5 as its columns. */
static void check_types(void) {
    static const struct {
        const char *kind;
        int bytes;
        uint64_t elements[6]; /* of 0, 1, 2, 3, 4, -5; bool: 0 1 1 1 1 1 */
    } rows[] = {
        {"Float", 4, {0, 0x3f800000, 0x40000000, 0x40400000, 0x40800000, 0xc0a00000}},
        {"Half", 2, {0, 0x3c00, 0x4000, 0x4200, 0x4400, 0xc500}},
        {"BFloat16", 2, {0, 0x3f80, 0x4000, 0x4040, 0x4080, 0xc0a0}},
        {"Double",
         8,
         {0, 0x3ffull << 52, 0x400ull << 52, 0x4008ull << 48, 0x401ull << 52, 0xc014ull << 48}},
        {"Long", 8, {0, 1, 2, 3, 4, (uint64_t)-5}},
        {"Int", 4, {0, 1, 2, 3, 4, (uint32_t)-5}},
        {"Short", 2, {0, 1, 2, 3, 4, (uint16_t)-5}},
        {"Char", 1, {0, 1, 2, 3, 4, (uint8_t)-5}},
        {"Byte", 1, {0, 1, 2, 3, 4, 251}},
        {"Bool", 1, {0, 1, 1, 1, 1, 1}},
    };
    for (size_t r = 0; r < 2 * sizeof rows / sizeof *rows; r++) {
        int big = r % 2, width = rows[r / 2].bytes;
        bytes pickle = {0}, data = {0};
        for (int i = 0; i < 6; i++)
            for (int k = 0; k < width; k++)
                bytes_number(&data, rows[r / 2].elements[i] >> 8 * (big ? width - 1 - k : k), 1);
        bytes_add(&pickle, "\x80\x02}", 3);
        put_text(&pickle, "w");
        put_tensor(&pickle, rows[r / 2].kind, 0, 6, 0, 2, (int64_t[]){2, 3}, (int64_t[]){1, 2});
        bytes_add(&pickle, "s.", 2);
        bytes file = one_tensor(&pickle, data.data, data.length, big ? "big" : NULL);
        dd_torch_file *f = NULL;
        float out[6] = {9, 9, 9, 9, 9, 9};
        static const int order[6] = {0, 2, 4, 1, 3, 5};
        CHECK(dd_torch_read((const char *)file.data, file.length, "x", &f) == DD_OK, "%s: %s",
              rows[r / 2].kind, dd_message());
        const dd_torch_value *w = f ? dd_torch_get(f, &f->values[f->root], "w") : NULL;
        CHECK(w && w->kind == DD_TORCH_TENSOR, "%s: no tensor", rows[r / 2].kind);
        if (w)
            dd_torch_tensor_floats(f, &f->tensors[w->as.index], out);
        for (int i = 0; i < 6; i++) {
            float value = (float)order[i];
            value = order[i] == 5 ? -5 : value;
            if (width == 1 && rows[r / 2].elements[5] == 251 && rows[r / 2].kind[1] == 'y')
                value = order[i] == 5 ? 251 : value;
            if (!strcmp(rows[r / 2].kind, "Bool"))
                value = order[i] != 0;
            CHECK(out[i] == value, "%s: element %d is %g, not %g", rows[r / 2].kind, i,
                  (double)out[i], (double)value);
        }
        dd_torch_destroy(f);
        bytes_free(&file);
        bytes_free(&pickle);
        bytes_free(&data);
    }
}

/* ---- damage --------------------------------------------------------------------------------- */

/* A read that may fail in its way only: a message, nothing leaks. */
static bool refused(const bytes *file, const char *what, size_t at) {
    dd_model *m = NULL;
    uint64_t live = dd_alloc_live();
    dd_status status = read_bytes(file, &m);
    CHECK(status == DD_OK || (status == DD_EFORMAT && !m), "%s %zu: status %d: %s", what, at,
          status, dd_message());
    CHECK(status == DD_OK || strstr(dd_message(), "x.pt"), "%s %zu: %s", what, at, dd_message());
    dd_model_destroy(m);
    CHECK(dd_alloc_live() == live, "%s %zu: %d blocks leak", what, at,
          (int)(dd_alloc_live() - live));
    return status != DD_OK;
}

/* Cut at every length, and each bit flipped in turn through the file: with the checksum nothing
 * gets through; without it, and with it made anew, nothing may crash. */
static void check_damage(void) {
    net n;
    make_net(&n);
    for (int sealed = 0; sealed < 2; sealed++) {
        bytes file = make_file(&n, sealed);
        size_t whole = file.length;
        for (file.length = 0; file.length < whole; file.length++) {
            bytes cut = {0};
            bytes_add(&cut, file.data, file.length); /* of its own: reads beyond it are found */
            CHECK(refused(&cut, "cut at", file.length), "cut at %zu was read", file.length);
            bytes_free(&cut);
        }
        for (size_t i = 0; i < whole; i++) {
            unsigned char was = file.data[i];
            file.data[i] = (unsigned char)(was ^ 1u << i % 8);
            bool found = refused(&file, "flipped at", i);
            CHECK(found || !sealed, "flipped at %zu was read", i);
            file.data[i] = was;
        }
        bytes_add(&file, "", 1);
        CHECK(refused(&file, "longer by", 1), "a byte more was read");
        bytes_free(&file);
    }
    net_free(&n);
}

/* Damage that the checksums do not tell: the pickle is changed before the file is made. */
static void check_damaged_pickles(void) {
    static const unsigned char values[] = {0,   1,   '(',  't',  ']',  '}',  '.',  'u',  'h',
                                           'R', 'Q', 0x80, 0x85, 0x8a, 0x8c, 0x94, 0xff, 'q'};
    net n;
    make_net(&n);
    bytes pickle = model_pickle(n.g, n.s, &words);
    for (size_t i = 0; i < pickle.length; i += 3) {
        unsigned char was = pickle.data[i];
        pickle.data[i] = values[i / 3 % sizeof values];
        bytes file = model_bytes(&pickle, n.s, i % 2);
        (void)refused(&file, "pickle changed at", i);
        bytes_free(&file);
        pickle.data[i] = was;
    }
    bytes_free(&pickle);
    net_free(&n);
}

/* ---- malice --------------------------------------------------------------------------------- */

#define P(text) text, sizeof text - 1
#define TEXT1(c) "X\1\0\0\0" c
static const struct {
    const char *program;
    size_t length;
    const char *message;
} tricks[] = {
    {P(""), "it has no end"},
    {P("\x80\x02."), "0 values are left"},
    {P("\x80\x02}}."), "2 values are left"},
    {P("\x80\x02(."), "values are left"},
    {P("\x80\x02}"), "it has no end"},
    {P("\x80\x02]]s."), "a value is missing"},
    {P("\x80\x02}]K\1s."), "a key that is neither"},
    {P("\x80\x02}(K\1u."), "no dict"},
    {P("\x80\x02}K\1a."), "no list"},
    {P("\x80\x02K\1K\1b."), "a state for something"},
    {P("\x80\x02t."), "a mark is missing"},
    {P("\x80\x02\x85."), "a value is missing"},
    {P("\x80\x02h\5."), "memo place 5 is empty"},
    {P("\x80\x02j\xff\xff\xff\xff."), "memo place 4294967295 is empty"},
    {P("\x80\x02}r\xff\xff\xff\xff."), "memo place 4294967295 came"},
    {P("\x80\x02X\xff\xff\xff\x7f"
       "ab."),
     "ends within"},
    {P("\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
       "ab."),
     "ends within"},
    {P("\x80\x02\x8c\2\xc3(."), "no UTF-8"},
    {P("\x80\x02\x8c\1\xc3\xbc."), "no UTF-8"}, /* a character that goes on behind the text */
    {P("\x80\x02\x8a\xff."), "ends within"},
    {P("\x80\x02G\0\0."), "ends within"},
    {P("\x80\x02"
       "cos\nsystem\n"
       "\x8c\2ls\x85R."),
     "holds code (os.system)"},
    {P("\x80\x04\x8c\2os\x8c\6system\x93."), "holds code (os.system)"},
    {P("\x80\x04KKK\1\x93."), "no text"},
    {P("\x80\x02"
       "ctorch\nQInt8Storage\n."),
     "holds code"},
    {P("\x80\x02"
       "cos"),
     "a name does not end"},
    {P("\x80\x02"
       "(icopy\nx\n."),
     "operation that tensors do not need (0x69)"},
    {P("\x80\x02)\x81."), "operation that tensors do not need (0x81)"},
    {P("\x80\x02"
       "ccollections\nOrderedDict\nK\1\x85R."),
     "a call of collections.OrderedDict"},
    {P("\x80\x02"
       "ctorch\nSize\nK\1\x85R."),
     "a call of torch.Size"},
    {P("\x80\x02"
       "ctorch\nFloatStorage\n)R."),
     "a call of torch.FloatStorage"},
    {P("\x80\x02"
       "ctorch._utils\n_rebuild_parameter\n)R."),
     "a call of torch._utils"},
    {P("\x80\x02"
       "ctorch._utils\n_rebuild_tensor_v2\n)R."),
     "a tensor without"},
    {P("\x80\x02}}R."), "no allowed name"},
    {P("\x80\x02}Q."), "no storage"},
    {P("\x80\x02}."), "no state_dict and meta"},
    {P("\x80\x02]."), "no state_dict and meta"},
    {P("\x80\x02N."), "no state_dict and meta"},
    {P("\x80\x02}(\x8c\nstate_dict]\x8c\4meta}u."), "are no dicts"},
    {P("\x80\x02}(\x8c\nstate_dict}\x8c\4meta}u."), "holds no network"},
    /* meta is the file itself, state_dict too, and entries a list that holds itself */
    {P("\x80\x02}q\0(\x8c\nstate_dicth\0\x8c\4metah\0\x8c\7entries]q\1h\1au."), "state_dict 3"},
    {P("\x80\x02}(\x8c\nstate_dict}(\x8c\1a]u\x8c\4meta}(\x8c\7entries]q\1h\1a\x8c\5graphNuu."),
     "no parameter"},
};

static void check_tricks(void) {
    for (size_t i = 0; i < sizeof tricks / sizeof *tricks; i++) {
        bytes pickle = {0};
        bytes_add(&pickle, tricks[i].program, tricks[i].length);
        bytes file = one_tensor(&pickle, "abcdefgh", 8, NULL);
        CHECK(refused(&file, "trick", i), "trick %zu was read", i);
        CHECK(strstr(dd_message(), tricks[i].message), "trick %zu: '%s' lacks '%s'", i,
              dd_message(), tricks[i].message);
        bytes_free(&file);
        bytes_free(&pickle);
    }
}

/* Sizes, strides and counts that lie. The storage has 6 floats. */
static void check_tensor_tricks(void) {
    static const struct {
        const char *kind, *message; /* NULL: it is fine */
        int key;
        int64_t count, offset, sizes[2], strides[2];
    } rows[] = {
        {"Float", NULL, 0, 6, 0, {2, 3}, {3, 1}},
        {"Float", NULL, 0, 6, 0, {2, 3}, {0, 0}},
        {"Float", NULL, 0, 6, 99, {0, INT64_MAX}, {INT64_MAX, INT64_MAX}},
        {"Float", "does not fit", 0, 6, 0, {2, 4}, {0, 0}}, /* more elements than the storage */
        {"Float", "does not fit", 0, 6, 0, {2, 3}, {4, 1}},
        {"Float", "does not fit", 0, 6, 1, {2, 3}, {3, 1}},
        {"Float", "does not fit", 0, 6, INT64_MAX, {2, 3}, {3, 1}},
        {"Float", "does not fit", 0, 6, 0, {(int64_t)1 << 40, 1}, {0, 0}},
        {"Float", "does not fit", 0, 6, 0, {(int64_t)1 << 32, (int64_t)1 << 32}, {0, 0}},
        {"Float", "does not fit", 0, 6, 0, {2, 2}, {INT64_MAX, INT64_MAX}},
        {"Float", "size or stride", 0, 6, 0, {-2, 3}, {3, 1}},
        {"Float", "size or stride", 0, 6, 3, {2, 3}, {-3, 1}},
        {"Float", "offset", 0, 6, -1, {2, 3}, {3, 1}},
        {"Float", "were announced", 0, 7, 0, {2, 3}, {3, 1}},
        {"Float", "were announced", 0, -6, 0, {2, 3}, {3, 1}},
        {"Float", "were announced", 0, (int64_t)1 << 62, 0, {2, 3}, {3, 1}},
        {"Double", "were announced", 0, 6, 0, {2, 3}, {3, 1}},
        {"Float", "data/1 is missing", 1, 6, 0, {2, 3}, {3, 1}},
    };
    const float data[6] = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bytes pickle = {0};
        bytes_add(&pickle, "\x80\x02", 2);
        put_tensor(&pickle, rows[i].kind, rows[i].key, rows[i].count, rows[i].offset, 2,
                   rows[i].sizes, rows[i].strides);
        put_op(&pickle, '.');
        bytes file = one_tensor(&pickle, data, sizeof data, NULL);
        dd_torch_file *f = NULL;
        dd_status status = dd_torch_read((const char *)file.data, file.length, "x.pt", &f);
        CHECK((status == DD_OK) == !rows[i].message, "row %zu: status %d", i, status);
        CHECK(!rows[i].message || strstr(dd_message(), rows[i].message), "row %zu: %s", i,
              dd_message());
        dd_torch_destroy(f);
        bytes_free(&file);
        bytes_free(&pickle);
    }
}

/* Zips that lie: a place of the directory's first row, or of the end, gets another number. */
static void check_zip_tricks(void) {
    static const struct {
        const char *message;
        int in_end, at, width;
        uint64_t number;
    } rows[] = {
        {"is compressed", 0, 10, 2, 8},
        {"is encrypted", 0, 8, 2, 1},
        {"two sizes", 0, 20, 4, 5},
        {"declares more bytes", 0, 20, 8, 0x4000000040000000},
        {"declares more bytes", 0, 20, 8, 0xffffffffffffffff},
        {"not where", 0, 42, 4, 1},
        {"not where", 0, 42, 4, 0xfffffff0},
        {"is cut off", 0, 28, 2, 0xffff},
        {"is cut off", 0, 30, 2, 0xffff},
        {"is cut off", 0, 0, 1, 'p'},
        {"two names", 0, 46, 1, 'b'},
        {"another checksum", 0, 16, 4, 1},
        {"is cut off", 1, 8, 4, 0x00040004}, /* a member more than there are */
        {"does not fit", 1, 8, 2, 9},
        {"does not fit", 1, 12, 4, 0x7fffffff},
        {"does not fit", 1, 16, 4, 0x7fffffff},
        {"does not fit", 1, 4, 2, 1},
        {"4 GiB", 1, 16, 4, 0xffffffff},
        {"4 GiB", 1, 8, 4, 0xffffffff},
        {"end is missing", 1, 20, 2, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bytes pickle = {0};
        bytes_add(&pickle, "\x80\x02}.", 4);
        bytes file = one_tensor(&pickle, "abcdefgh", 8, "little");
        unsigned char *end = file.data + file.length - 22, *row = end;
        while (memcmp(row, "PK\1\2", 4) != 0 || row[46 + 8] != 'd' || row[46 + 9] != 'a' ||
               row[46 + 13] != 'p') /* the row of archive/data.pkl */
            row--;
        unsigned char *place = (rows[i].in_end ? end : row) + rows[i].at;
        for (int k = 0; k < rows[i].width; k++)
            place[k] = (unsigned char)(rows[i].number >> 8 * k);
        CHECK(refused(&file, "zip", i), "zip %zu was read", i);
        CHECK(strstr(dd_message(), rows[i].message), "zip %zu: '%s' lacks '%s'", i, dd_message(),
              rows[i].message);
        bytes_free(&file);
        bytes_free(&pickle);
    }
}

/* Two members of one name, and files of other kinds. */
static void check_other_files(void) {
    static const struct {
        const char *data;
        size_t length;
        const char *message;
    } rows[] = {
        {P(""), "is empty"},
        {P("a text file, quite long enough to be something"), "starts with 'a text file,'"},
        {P("\x80\x02\x8a\nl\xfc\x9c"
           "F\xf9 j\xa8P\x19.rest"),
         "before 1.6"},
        {P("\x80\x04\x95 a bare pickle"), "starts with '\\x80\\x04\\x95 a bare"},
        {P("PK\3\4"), "truncated or damaged"},
        {P("PK\3\4 not really a zip, but long enough for its end"), "truncated or damaged"},
        {P("sha256:"), "starts with"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bytes file = {0};
        bytes_add(&file, rows[i].data, rows[i].length);
        CHECK(refused(&file, "kind", i) && strstr(dd_message(), rows[i].message), "%s",
              dd_message());
        bytes_free(&file);
    }
    zip_writer z = {.folder = "archive"};
    zip_add(&z, "data.pkl", "}.", 2);
    zip_add(&z, "data.pkl", "].", 2);
    bytes twice = zip_end(&z, 0);
    CHECK(refused(&twice, "twice", 0) && strstr(dd_message(), "one name"), "%s", dd_message());
    bytes_free(&twice);
    z = (zip_writer){.folder = "archive/deeper"};
    zip_add(&z, "data.pkl", "}.", 2);
    bytes deeper = zip_end(&z, 0);
    CHECK(refused(&deeper, "deeper", 0) && strstr(dd_message(), "no data.pkl"), "%s", dd_message());
    bytes_free(&deeper);
    dd_model *m = NULL;
    CHECK(dd_model_load("/nowhere/x.pt", &m) == DD_EIO && strstr(dd_message(), "/nowhere/x.pt"),
          "%s", dd_message());
}

int main(void) {
    check_checksums();
    check_round_trip();
    check_empty_store();
    check_types();
    check_damage();
    check_damaged_pickles();
    check_tricks();
    check_tensor_tricks();
    check_zip_tricks();
    check_other_files();
    return check_done("model_file");
}
