/* The store: entries in the order of their making, values in one block of floats.
 *
 * Offsets are rounded up to 16 floats, so that every entry starts on its own cache line: kernels
 * may load whole vectors, and threads that write neighbouring entries do not share a line. The pad
 * floats are zero and stay zero, so passes over the flat array need not step over them. */
#include "graph/store.h"

#include <stdatomic.h>
#include <string.h>

#include "base/memory.h"

#define ENTRY_ALIGN 16
#define FIRST_INDEX 64

static uint64_t next_id(void) {
    /* Ids tell stores apart whose memory was reused: packed weights are cached by (id, version). */
    static _Atomic uint64_t last;
    return atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
}

/* Version 1 and not 0: a cache that has seen no store yet holds 0. */
dd_status dd_store_create(dd_store **store) {
    dd_store *s;
    DD_TRY(dd_alloc_array(1, sizeof *s, &s));
    s->id = next_id();
    s->version = 1;
    *store = s;
    return DD_OK;
}

/* Also for a store whose making failed half-way: n counts complete entries only. */
void dd_store_destroy(dd_store *store) {
    if (!store)
        return;
    for (size_t i = 0; i < store->n; i++)
        dd_free(store->entries[i].name);
    dd_free(store->entries);
    dd_free(store->index);
    dd_free(store->values);
    dd_free(store);
}

/* Makes room for `size` floats; the new ones are zero. */
static dd_status grow_values(dd_store *s, size_t size) {
    if (size <= s->values_capacity)
        return DD_OK;
    size_t old = s->values_capacity;
    DD_TRY(dd_reserve(&s->values, &s->values_capacity, size, sizeof(float)));
    memset(s->values + old, 0, (s->values_capacity - old) * sizeof(float));
    return DD_OK;
}

/* ---- names --------------------------------------------------------------------------------- */

/* FNV-1a: names are short. */
static size_t hash_of(const char *name) {
    uint64_t h = 14695981039346656037u;
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 1099511628211u;
    return (size_t)(h ^ h >> 32);
}

/* Where the name stands in the index, or the free place that it would take. */
static size_t place_of(const dd_store *s, const uint32_t *index, size_t capacity,
                       const char *name) {
    size_t at = hash_of(name) & (capacity - 1);
    while (index[at] && strcmp(s->entries[index[at] - 1].name, name) != 0)
        at = (at + 1) & (capacity - 1);
    return at;
}

/* Room for one name more; entries are found again in a larger index. */
static dd_status grow_index(dd_store *s, size_t n) {
    uint32_t *index;
    size_t capacity = s->index_capacity ? s->index_capacity : FIRST_INDEX;
    while (capacity < 2 * n)
        capacity *= 2;
    if (capacity == s->index_capacity)
        return DD_OK;
    DD_TRY(dd_alloc_array(capacity, sizeof *index, &index));
    for (size_t i = 0; i < s->n; i++)
        index[place_of(s, index, capacity, s->entries[i].name)] = (uint32_t)i + 1;
    dd_free(s->index);
    s->index = index;
    s->index_capacity = capacity;
    return DD_OK;
}

int dd_store_find(const dd_store *s, const char *name) {
    if (!s->index)
        return -1;
    return (int)s->index[place_of(s, s->index, s->index_capacity, name)] - 1;
}

/* ---- entries ------------------------------------------------------------------------------- */

/* The copy has an id of its own: what is packed for one store is never used for another. */
dd_status dd_store_copy(const dd_store *from, dd_store **to) {
    dd_status status;
    dd_store *s = NULL;
    DD_TRY_DONE(dd_store_create(&s));
    if (from->n)
        DD_TRY_DONE(dd_reserve(&s->entries, &s->capacity, from->n, sizeof *s->entries));
    DD_TRY_DONE(grow_values(s, from->size));
    for (size_t i = 0; i < from->n; i++) {
        char *name;
        DD_TRY_DONE(dd_strdup(from->entries[i].name, &name));
        s->entries[i] = from->entries[i];
        s->entries[i].name = name;
        s->n = i + 1; /* counted one by one: a failure frees exactly what was made */
    }
    if (from->n)
        DD_TRY_DONE(grow_index(s, s->n));
    if (from->size)
        memcpy(s->values, from->values, from->size * sizeof(float));
    s->size = from->size;
    *to = s;
    s = NULL;
done:
    dd_store_destroy(s);
    return status;
}

dd_status dd_store_add(dd_store *s, const char *name, dd_role role, const dd_type *type, bool decay,
                       int *entry) {
    dd_status status;
    char *copy = NULL;
    size_t bytes;
    if (!name[0] || strlen(name) > DD_MAX_NAME)
        return dd_fail(DD_EVALUE, "store: an entry's name has %zu bytes, 1 to %d are needed",
                       strlen(name), DD_MAX_NAME);
    if (dd_store_find(s, name) >= 0)
        return dd_fail(DD_EVALUE, "store: there is an entry '%s' already", name);
    if (role != DD_TRAINABLE && role != DD_STATE && role != DD_CONSTANT)
        return dd_fail(DD_EVALUE, "store: entry '%s' has role %d, 0 to 2 is needed", name,
                       (int)role);
    if (type->dtype != DD_F32)
        return dd_fail(DD_ETYPE, "store: entry '%s' is %s, f32 is needed", name,
                       dd_dtype_name(type->dtype));
    DD_TRY(dd_type_bytes(type, name, &bytes));
    /* dd_type_bytes has checked every product, so the count is safe. */
    int64_t count = (int64_t)(bytes / sizeof(float));
    size_t padded = ((size_t)count + ENTRY_ALIGN - 1) / ENTRY_ALIGN * ENTRY_ALIGN;
    size_t size;
    DD_TRY(dd_size_add(s->size, padded, "store", &size));
    /* Growth first, commitment last: a refusal or a failure leaves the store as it was. */
    if (s->n >= INT32_MAX / 2)
        return dd_fail(DD_EVALUE, "store: %zu entries are all that is possible", s->n);
    DD_TRY(dd_reserve(&s->entries, &s->capacity, s->n + 1, sizeof *s->entries));
    DD_TRY(grow_index(s, s->n + 1));
    DD_TRY_DONE(dd_strdup(name, &copy));
    DD_TRY_DONE(grow_values(s, size));
    s->entries[s->n] = (dd_entry){.name = copy,
                                  .role = role,
                                  .type = *type,
                                  .offset = (int64_t)s->size,
                                  .count = count,
                                  .lr_factor = 1,
                                  .decay = decay};
    s->index[place_of(s, s->index, s->index_capacity, copy)] = (uint32_t)s->n + 1;
    copy = NULL;
    s->size = size;
    *entry = (int)s->n++;
    dd_store_touch(s);
done:
    dd_free(copy);
    return status;
}

float *dd_store_data(const dd_store *s, int entry) {
    /* A store of nothing but empty entries has no memory. */
    return s->values ? s->values + s->entries[entry].offset : NULL;
}

void dd_store_touch(dd_store *s) {
    s->version++;
}
