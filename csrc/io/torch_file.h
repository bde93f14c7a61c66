/* torch's files (.pt, .pth): nested plain values and tensors, read without torch and without
 * running anything.
 *
 * A file is a zip of stored members below one folder: data.pkl, a pickle whose tensors are
 * persistent ids; data/<key>, the bytes of a storage; byteorder. Ours also end with a SHA-256 of
 * all that stands before, as the zip's comment; the folder's name says that it must be there.
 *
 * The pickle goes through a small machine that knows the operations that plain values and tensors
 * need and a list of allowed names, and refuses the rest by name. There is no recursion, each size
 * is held against the file's before memory is taken, and all memory is a small multiple of the
 * file's length.
 *
 * What comes out is an array of values that refer to each other by number. A list or dict may
 * hold itself, directly or not, so whoever walks down bounds the depth; a tuple's items always
 * have lower numbers than itself. */
#ifndef DD_IO_TORCH_FILE_H
#define DD_IO_TORCH_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef enum dd_torch_type {
    DD_TORCH_F32 = 0,
    DD_TORCH_F64,
    DD_TORCH_F16,
    DD_TORCH_BF16,
    DD_TORCH_S64,
    DD_TORCH_S32,
    DD_TORCH_S16,
    DD_TORCH_S8,
    DD_TORCH_U8,
    DD_TORCH_BOOL,
    DD_TORCH_TYPES,
} dd_torch_type;

size_t dd_torch_type_bytes(dd_torch_type type);

typedef enum dd_torch_kind {
    DD_TORCH_NONE = 0,
    DD_TORCH_FLAG,
    DD_TORCH_WHOLE,
    DD_TORCH_BIG, /* a whole number beyond int64: `count` bytes, little-endian, two's complement */
    DD_TORCH_NUMBER,
    DD_TORCH_TEXT, /* `count` bytes of valid UTF-8 without a NUL behind it */
    DD_TORCH_TUPLE,
    DD_TORCH_LIST,
    DD_TORCH_DICT, /* `count` keys and values in turn; keys are TEXT or WHOLE and may come twice */
    DD_TORCH_TENSOR,
    DD_TORCH_NAME,    /* an allowed name that nobody called; `bytes` is NUL-terminated */
    DD_TORCH_STORAGE, /* a storage that no tensor views */
} dd_torch_kind;

typedef struct dd_torch_value {
    dd_torch_kind kind;
    uint32_t count, capacity;
    union {
        bool flag;
        int64_t whole;
        double number;
        const char *bytes; /* borrowed from the file */
        size_t first;      /* TUPLE, LIST, DICT: of its items in dd_torch_file.items */
        size_t index;      /* TENSOR, STORAGE: in the file's arrays */
    } as;
} dd_torch_value;

typedef struct dd_torch_storage {
    dd_torch_type type;
    const unsigned char *data; /* count elements in the file's byte order, unaligned; borrowed */
    size_t count;
} dd_torch_storage;

/* A strided view of a storage, within its bounds; at most DD_TORCH_MAX_RANK dimensions, and no
 * more elements than the storage has. */
#define DD_TORCH_MAX_RANK 32
typedef struct dd_torch_tensor {
    size_t storage;
    int rank;
    size_t sizes, strides; /* where they begin in dd_torch_file.items: `rank` whole numbers >= 0 */
    int64_t offset, count; /* of its first element; how many it has */
} dd_torch_tensor;

typedef struct dd_torch_file {
    dd_torch_value *values;
    uint32_t *items;
    dd_torch_storage *storages;
    dd_torch_tensor *tensors;
    size_t n_values, n_items, n_storages, n_tensors;
    size_t values_capacity, items_capacity, storages_capacity, tensors_capacity;
    uint32_t root; /* the number of the value that the file holds */
    bool big_endian;
} dd_torch_file;

/* Reads the file in data[0..length), which is borrowed for the result's life and has a NUL byte
 * behind it (as dd_file_read() gives it). `name` is the file's, for messages. Fails with
 * DD_EFORMAT that says the reason (empty, no torch file, torch's format from before 1.6,
 * truncated, damaged, or holding anything but tensors and plain values) and DD_ENOMEM. */
dd_status dd_torch_read(const char *data, size_t length, const char *name, dd_torch_file **file);
void dd_torch_destroy(dd_torch_file *file); /* NULL is allowed */

/* The value under a key of a dict (the last of equal keys); NULL where there is none, and where
 * `dict` is NULL or no dict. O(count). */
const dd_torch_value *dd_torch_get(const dd_torch_file *f, const dd_torch_value *dict,
                                   const char *key);

/* The i-th item of a tuple, list or dict; i < count. */
const dd_torch_value *dd_torch_item(const dd_torch_file *f, const dd_torch_value *v, uint32_t i);

/* Whether a value is this text. */
bool dd_torch_is(const dd_torch_value *v, const char *text);

/* A tensor's i-th size and stride, in elements. */
int64_t dd_torch_size(const dd_torch_file *f, const dd_torch_tensor *t, int i);
int64_t dd_torch_stride(const dd_torch_file *f, const dd_torch_tensor *t, int i);

/* All elements of a storage in this machine's byte order; bfloat16 becomes float32. `out` has
 * count elements of dd_torch_type_bytes (4 for bfloat16). */
void dd_torch_storage_copy(const dd_torch_file *f, const dd_torch_storage *s, void *out);

/* A tensor of any type as dense float32; `out` has room for its count. */
void dd_torch_tensor_floats(const dd_torch_file *f, const dd_torch_tensor *t, float *out);

#endif
