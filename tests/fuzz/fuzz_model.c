/* Fuzz target of the model file's reader. A text that begins as a zip is read as a file; any other
 * is taken for a pickle and put into a file with right checksums and one storage of 24 floats, so
 * that changes reach what lies behind the checksums. What is checked beyond memory errors: a read
 * fails in its one way, what it gives holds together, nothing leaks. */
#include "../c/model_files.h"
#include "io/model_file.h"
#include "io/torch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NEED(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "fuzz_model: %s does not hold\n", #condition);                         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Every value refers to what is there; tensors lie within their storages. */
static void walk(const dd_torch_file *f) {
    float out[24];
    NEED(f->root < f->n_values);
    for (size_t i = 0; i < f->n_values; i++) {
        const dd_torch_value *v = &f->values[i];
        bool list = v->kind == DD_TORCH_TUPLE || v->kind == DD_TORCH_LIST;
        NEED(v->kind != DD_TORCH_DICT || v->count % 2 == 0);
        for (uint32_t k = 0; (list || v->kind == DD_TORCH_DICT) && k < v->count; k++)
            NEED(dd_torch_item(f, v, k) < f->values + f->n_values);
        if (v->kind == DD_TORCH_TENSOR) {
            const dd_torch_tensor *t = &f->tensors[v->as.index];
            NEED(v->as.index < f->n_tensors && t->storage < f->n_storages);
            NEED((uint64_t)t->count <= f->storages[t->storage].count);
            if (t->count <= 24)
                dd_torch_tensor_floats(f, t, out);
        }
        if (v->kind == DD_TORCH_STORAGE && f->storages[v->as.index].count <= 6) {
            double copy[6];
            dd_torch_storage_copy(f, &f->storages[v->as.index], copy);
        }
    }
}

/* A file around a pickle. */
static bytes file_of(const uint8_t *pickle, size_t size) {
    zip_writer z = {.folder = size % 2 ? "deepseek_det" : "archive"};
    float storage[24];
    for (int i = 0; i < 24; i++)
        storage[i] = (float)i;
    zip_add(&z, "data.pkl", pickle, size);
    zip_add(&z, "data/0", storage, sizeof storage);
    return zip_end(&z, size % 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t live = dd_alloc_live();
    bytes file = {0};
    dd_torch_file *f = NULL;
    dd_model *m = NULL;
    if (size >= 4 && !memcmp(data, "PK\3\4", 4))
        bytes_add(&file, data, size);
    else
        file = file_of(data, size);
    dd_status status = dd_torch_read((const char *)file.data, file.length, "fuzz", &f);
    NEED(status == DD_OK || (status == DD_EFORMAT && !f));
    if (f)
        walk(f);
    dd_torch_destroy(f);
    status = dd_model_read((const char *)file.data, file.length, "fuzz", &m);
    NEED(status == DD_OK || (status == DD_EFORMAT && !m));
    NEED(!m || (m->graph && m->store && m->name && m->n_classes >= 0 && m->imgsz > 0));
    dd_model_destroy(m);
    bytes_free(&file);
    NEED(dd_alloc_live() == live);
    return 0;
}
