/* The container: checksum, zip, and which members matter; and elements as numbers.
 *
 * The order of the checks is that of the best message. The checksum first, for it tells damage from
 * a file of another kind; then the zip's frame; then what the pickle says. Files of torch's own
 * have no checksum of the whole, so the members' CRCs stand in, all of them and each once: the
 * pickle may refer to a member as often as it likes. */
#include "io/torch_file.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "io/checksum.h"
#include "io/pickle.h"
#include "io/zip.h"

/* The folder of our own files, which end with MARK and HEX digits. */
#define OWN_FOLDER "deepseek_det"
#define MARK "sha256:"
enum { MARK_BYTES = sizeof MARK - 1, HEX = 64 };

/* ---- the checksum -------------------------------------------------------------------------- */

/* Whether a checksum stands at the end and is right; DD_EFORMAT where it is wrong. */
static dd_status verify(const char *data, size_t length, const char *name, bool *sealed) {
    *sealed = false;
    if (length < MARK_BYTES + HEX || memcmp(data + length - HEX - MARK_BYTES, MARK, MARK_BYTES))
        return DD_OK;
    uint8_t digest[32];
    char hex[HEX];
    dd_sha256(data, length - HEX, digest);
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    if (memcmp(hex, data + length - HEX, HEX) != 0)
        return dd_fail(DD_EFORMAT, "checkpoint: %s is damaged: its checksum differs", name);
    *sealed = true;
    return DD_OK;
}

/* ---- the zip ------------------------------------------------------------------------------- */

/* The one member <folder>/data.pkl; the folder is one level deep. */
static const dd_zip_member *find_program(const dd_zip *zip) {
    static const char wanted[] = "/data.pkl";
    size_t n = sizeof wanted - 1;
    const dd_zip_member *found = NULL;
    for (size_t i = 0; i < zip->n; i++) {
        const dd_zip_member *m = &zip->members[i];
        if (m->name_length < n || memcmp(m->name + m->name_length - n, wanted, n) != 0 ||
            memchr(m->name, '/', m->name_length - n))
            continue;
        if (found)
            return NULL;
        found = m;
    }
    return found;
}

/* A member <folder>/byteorder says "big" or "little"; older files have none and are little. */
static bool is_big_endian(const dd_zip *zip, const char *folder, size_t folder_length) {
    for (size_t i = 0; i < zip->n; i++) {
        const dd_zip_member *m = &zip->members[i];
        if (m->name_length == folder_length + 10 && !memcmp(m->name, folder, folder_length) &&
            !memcmp(m->name + folder_length, "/byteorder", 10))
            return m->size == 3 && !memcmp(m->data, "big", 3);
    }
    return false;
}

static dd_status read_zip(const dd_zip *zip, const char *name, bool sealed, dd_torch_file *f) {
    const dd_zip_member *program = find_program(zip);
    if (!program)
        return dd_fail(DD_EFORMAT,
                       "checkpoint: %s is a zip, but holds no data.pkl as torch.save writes", name);
    dd_pickle_source source = {.name = name,
                               .folder = program->name,
                               .folder_length = program->name_length - 9,
                               .zip = zip};
    bool own = source.folder_length == sizeof OWN_FOLDER - 1 &&
               !memcmp(source.folder, OWN_FOLDER, sizeof OWN_FOLDER - 1);
    if (own && !sealed)
        return dd_fail(DD_EFORMAT, "checkpoint: %s is damaged: its checksum is missing", name);
    /* A right checksum of the whole file says more than those of the members. */
    for (size_t i = 0; !sealed && i < zip->n; i++)
        DD_TRY(dd_zip_check(&zip->members[i], name));
    f->big_endian = is_big_endian(zip, source.folder, source.folder_length);
    return dd_pickle_run(program->data, program->size, &source, f);
}

/* What does not begin as a zip does. Bytes that do not print are shown as Python shows them. */
static dd_status fail_kind(const char *data, size_t length, const char *name) {
    /* Files from before torch 1.6 begin with a pickled magic number. */
    static const char legacy[] = "\x80\x02\x8a\nl\xfc\x9c"
                                 "F\xf9 j\xa8P\x19.";
    bool sealed;
    char shown[12 * 4 + 1];
    if (length >= sizeof legacy - 1 && !memcmp(data, legacy, sizeof legacy - 1))
        return dd_fail(DD_EFORMAT,
                       "checkpoint: %s is in torch's format from before 1.6; load it in torch and "
                       "save it again with torch.save(state_dict, path)",
                       name);
    /* A damaged file of ours still has its mark at the end: then that is the better message. */
    DD_TRY(verify(data, length, name, &sealed));
    size_t n = 0;
    for (size_t i = 0; i < length && i < 12; i++) {
        unsigned char c = (unsigned char)data[i];
        if (c >= 0x20 && c < 0x7f) {
            shown[n++] = (char)c;
        } else {
            memcpy(shown + n, "\\x", 2);
            shown[n + 2] = "0123456789abcdef"[c >> 4];
            shown[n + 3] = "0123456789abcdef"[c & 15];
            n += 4;
        }
    }
    shown[n] = '\0';
    return dd_fail(DD_EFORMAT, "checkpoint: %s is no checkpoint: it starts with '%s'", name, shown);
}

dd_status dd_torch_read(const char *data, size_t length, const char *name, dd_torch_file **file) {
    dd_status status;
    dd_torch_file *f = NULL;
    dd_zip zip = {0};
    bool sealed;
    if (!length)
        return dd_fail(DD_EFORMAT, "checkpoint: %s is empty", name);
    if (length < 4 || memcmp(data, "PK\3\4", 4) != 0)
        return fail_kind(data, length, name);
    DD_TRY_DONE(verify(data, length, name, &sealed));
    DD_TRY_DONE(dd_zip_read(data, length, name, &zip));
    DD_TRY_DONE(dd_alloc_array(1, sizeof *f, &f));
    DD_TRY_DONE(read_zip(&zip, name, sealed, f));
    *file = f;
    f = NULL;
done:
    dd_zip_free(&zip);
    dd_torch_destroy(f);
    return status;
}

void dd_torch_destroy(dd_torch_file *file) {
    if (!file)
        return;
    dd_free(file->values);
    dd_free(file->items);
    dd_free(file->storages);
    dd_free(file->tensors);
    dd_free(file);
}

/* ---- values -------------------------------------------------------------------------------- */

const dd_torch_value *dd_torch_item(const dd_torch_file *f, const dd_torch_value *v, uint32_t i) {
    return &f->values[f->items[v->as.first + i]];
}

bool dd_torch_is(const dd_torch_value *v, const char *text) {
    size_t n = strlen(text);
    return v->kind == DD_TORCH_TEXT && v->count == n && !memcmp(v->as.bytes, text, n);
}

/* From the end: of equal keys the last one counts, as in Python's dicts. */
const dd_torch_value *dd_torch_get(const dd_torch_file *f, const dd_torch_value *dict,
                                   const char *key) {
    if (!dict || dict->kind != DD_TORCH_DICT)
        return NULL;
    for (uint32_t i = dict->count; i; i -= 2)
        if (dd_torch_is(dd_torch_item(f, dict, i - 2), key))
            return dd_torch_item(f, dict, i - 1);
    return NULL;
}

/* Sizes and strides stay where the pickle's tuples have them: a copy a tensor would let a small
 * file with one tuple and many tensors grow. */
int64_t dd_torch_size(const dd_torch_file *f, const dd_torch_tensor *t, int i) {
    return f->values[f->items[t->sizes + (size_t)i]].as.whole;
}

int64_t dd_torch_stride(const dd_torch_file *f, const dd_torch_tensor *t, int i) {
    return f->values[f->items[t->strides + (size_t)i]].as.whole;
}

/* ---- elements ------------------------------------------------------------------------------ */

size_t dd_torch_type_bytes(dd_torch_type type) {
    static const uint8_t bytes[DD_TORCH_TYPES] = {4, 8, 2, 2, 8, 4, 2, 1, 1, 1};
    return bytes[type];
}

/* The bits of an element, by its own byte order: machines of both orders read alike. */
static uint64_t element_bits(const unsigned char *p, size_t bytes, bool big_endian) {
    uint64_t bits = 0;
    for (size_t i = 0; i < bytes; i++)
        bits |= (uint64_t)p[big_endian ? bytes - 1 - i : i] << 8 * i;
    return bits;
}

static float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Exact: every half is a float; NaN keeps its payload. */
static float half_to_float(uint32_t half) {
    uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31)
        return float_of_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) {
        float small = ldexpf((float)fraction, -24);
        return sign ? -small : small;
    }
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

/* An element of any type, rounded once. */
static float element_float(dd_torch_type type, uint64_t bits) {
    double number;
    switch (type) {
    case DD_TORCH_F32:
        return float_of_bits((uint32_t)bits);
    case DD_TORCH_F64:
        memcpy(&number, &bits, sizeof number);
        return (float)number;
    case DD_TORCH_F16:
        return half_to_float((uint32_t)bits);
    case DD_TORCH_BF16:
        return float_of_bits((uint32_t)bits << 16);
    case DD_TORCH_S64:
        return (float)(int64_t)bits;
    case DD_TORCH_S32:
        return (float)(int32_t)(uint32_t)bits;
    case DD_TORCH_S16:
        return (float)(int16_t)(uint16_t)bits;
    case DD_TORCH_S8:
        return (float)(int8_t)(uint8_t)bits;
    case DD_TORCH_U8:
        return (float)(uint8_t)bits;
    case DD_TORCH_BOOL:
        return bits ? 1 : 0;
    case DD_TORCH_TYPES:
        break;
    }
    return 0;
}

/* Stores the low `bytes` bytes of `bits` as this machine does. */
static void put_element(unsigned char *out, uint64_t bits, size_t bytes) {
    uint8_t narrow = (uint8_t)bits;
    uint16_t half = (uint16_t)bits;
    uint32_t word = (uint32_t)bits;
    memcpy(out,
           bytes == 1   ? (void *)&narrow
           : bytes == 2 ? (void *)&half
           : bytes == 4 ? (void *)&word
                        : (void *)&bits,
           bytes);
}

static bool machine_is_big(void) {
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return first == 0;
}

void dd_torch_storage_copy(const dd_torch_file *f, const dd_torch_storage *s, void *out) {
    size_t bytes = dd_torch_type_bytes(s->type);
    bool widen = s->type == DD_TORCH_BF16;
    unsigned char *to = out;
    if (s->count && !widen && (bytes == 1 || f->big_endian == machine_is_big())) {
        memcpy(to, s->data, s->count * bytes);
        return;
    }
    for (size_t i = 0; i < s->count; i++) {
        uint64_t bits = element_bits(s->data + i * bytes, bytes, f->big_endian);
        put_element(to + i * (widen ? 4 : bytes), widen ? bits << 16 : bits, widen ? 4 : bytes);
    }
}

/* Walks like an odometer; the last dimension is the innermost loop. The machine has checked that
 * all of it lies in the storage. */
void dd_torch_tensor_floats(const dd_torch_file *f, const dd_torch_tensor *t, float *out) {
    const dd_torch_storage *s = &f->storages[t->storage];
    size_t bytes = dd_torch_type_bytes(s->type);
    int64_t at[DD_TORCH_MAX_RANK] = {0}, place = t->offset;
    int last = t->rank - 1;
    for (int64_t done = 0; done < t->count;) {
        int64_t run = last >= 0 ? dd_torch_size(f, t, last) : 1;
        int64_t step = last >= 0 ? dd_torch_stride(f, t, last) : 0;
        for (int64_t i = 0; i < run; i++) {
            const unsigned char *p = s->data + (size_t)(place + i * step) * bytes;
            out[done + i] = element_float(s->type, element_bits(p, bytes, f->big_endian));
        }
        done += run;
        for (int d = last - 1; d >= 0; d--) {
            place += dd_torch_stride(f, t, d);
            if (++at[d] < dd_torch_size(f, t, d))
                break;
            place -= dd_torch_size(f, t, d) * dd_torch_stride(f, t, d);
            at[d] = 0;
        }
    }
}
