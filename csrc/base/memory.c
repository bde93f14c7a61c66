/* The heap behind one door.
 *
 * A block is preceded by a header of one alignment unit that holds its size: realloc needs it, and
 * no portable call tells it. The header costs 64 bytes a block, which does not matter because big
 * buffers are few and kernels never allocate. Under AddressSanitizer the header is poisoned, so a
 * write before the block is found like one behind it.
 *
 * The three counters are the only mutable state of this folder besides the thread pool. */
#include "base/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define DD_HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DD_HAS_ASAN 1
#endif
#endif
#ifdef DD_HAS_ASAN
#include <sanitizer/asan_interface.h>
#endif

typedef struct header {
    size_t bytes;
} header;

/* No block is larger: 1 TiB where pointers allow, half the address space elsewhere. Such a size
 * comes from broken input, and the sanitizers abort on it before malloc can refuse it. */
#if SIZE_MAX > 0xFFFFFFFFu
#define BYTES_MAX ((size_t)1 << 40)
#else
#define BYTES_MAX (SIZE_MAX / 2)
#endif

static _Atomic uint64_t calls;     /* tries, failed ones too */
static _Atomic uint64_t live;      /* blocks handed out and not freed */
static _Atomic uint64_t fail_call; /* the number of the call that is to fail; 0: none */

static header *header_of(void *block) {
    return (header *)(void *)((char *)block - DD_ALIGN);
}

/* The one place that takes memory from the system. NULL with the message set on failure. */
static void *take(size_t bytes) {
    uint64_t call = atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed) + 1;
    if (call == atomic_load_explicit(&fail_call, memory_order_relaxed)) {
        (void)dd_fail(DD_ENOMEM, "memory: %zu bytes were refused by the test hook", bytes);
        return NULL;
    }
    void *base = NULL;
    if (bytes > BYTES_MAX - DD_ALIGN || posix_memalign(&base, DD_ALIGN, bytes + DD_ALIGN) != 0) {
        (void)dd_fail(DD_ENOMEM, "memory: %zu bytes are not to be had", bytes);
        return NULL;
    }
    ((header *)base)->bytes = bytes;
    dd_poison(base, DD_ALIGN);
    atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    return (char *)base + DD_ALIGN;
}

/* Callers pass `T **` as `void *`; memcpy stores the pointer without breaking aliasing rules. */
static void put(void *out_pointer, void *block) {
    memcpy(out_pointer, &block, sizeof block);
}

dd_status dd_alloc(size_t bytes, void *out_pointer) {
    void *block = take(bytes ? bytes : 1);
    if (!block)
        return DD_ENOMEM;
    put(out_pointer, block);
    return DD_OK;
}

dd_status dd_alloc_array(size_t count, size_t size, void *out_pointer) {
    size_t bytes = 0;
    DD_TRY(dd_size_mul(count, size, "memory", &bytes));
    void *block = take(bytes ? bytes : 1);
    if (!block)
        return DD_ENOMEM;
    memset(block, 0, bytes ? bytes : 1);
    put(out_pointer, block);
    return DD_OK;
}

dd_status dd_realloc_array(void *pointer_to_pointer, size_t count, size_t size) {
    size_t bytes = 0;
    DD_TRY(dd_size_mul(count, size, "memory", &bytes));
    /* Always a new block: the system's realloc does not keep an alignment of 64. */
    void *block = take(bytes ? bytes : 1);
    if (!block)
        return DD_ENOMEM;
    void *old;
    memcpy(&old, pointer_to_pointer, sizeof old);
    if (old) {
        header *h = header_of(old);
        dd_unpoison(h, DD_ALIGN);
        size_t kept = h->bytes < bytes ? h->bytes : bytes;
        memcpy(block, old, kept);
        dd_free(old);
    }
    put(pointer_to_pointer, block);
    return DD_OK;
}

dd_status dd_reserve(void *pointer_to_pointer, size_t *capacity, size_t needed, size_t size) {
    if (needed <= *capacity)
        return DD_OK;
    size_t room = *capacity > SIZE_MAX / 2 ? needed : *capacity * 2;
    if (room < needed)
        room = needed;
    if (room < 8) /* the first growth skips the tiny steps */
        room = 8;
    DD_TRY(dd_realloc_array(pointer_to_pointer, room, size));
    *capacity = room;
    return DD_OK;
}

void dd_free(void *pointer) {
    if (!pointer)
        return;
    header *h = header_of(pointer);
    dd_unpoison(h, DD_ALIGN);
    dd_unpoison(pointer, h->bytes); /* an arena may have left guard zones inside */
    atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    free(h);
}

dd_status dd_strdup(const char *text, char **out) {
    size_t bytes = strlen(text) + 1;
    char *copy;
    DD_TRY(dd_alloc(bytes, &copy));
    memcpy(copy, text, bytes);
    *out = copy;
    return DD_OK;
}

dd_status dd_size_mul(size_t a, size_t b, const char *who, size_t *out) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return dd_fail(DD_ENOMEM, "%s: a size of %zu x %zu does not fit in memory", who, a, b);
    *out = product;
    return DD_OK;
}

dd_status dd_size_add(size_t a, size_t b, const char *who, size_t *out) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return dd_fail(DD_ENOMEM, "%s: a size of %zu + %zu does not fit in memory", who, a, b);
    *out = sum;
    return DD_OK;
}

void dd_alloc_fail_at(uint64_t n) {
    /* A call number and not a countdown: exactly one call fails, whatever the threads do. */
    uint64_t now = atomic_load_explicit(&calls, memory_order_relaxed);
    atomic_store_explicit(&fail_call, n ? now + n : 0, memory_order_relaxed);
}

uint64_t dd_alloc_calls(void) {
    return atomic_load_explicit(&calls, memory_order_relaxed);
}

uint64_t dd_alloc_live(void) {
    return atomic_load_explicit(&live, memory_order_relaxed);
}

void dd_poison(const void *pointer, size_t bytes) {
#ifdef DD_HAS_ASAN
    ASAN_POISON_MEMORY_REGION(pointer, bytes);
#else
    (void)pointer, (void)bytes;
#endif
}

void dd_unpoison(const void *pointer, size_t bytes) {
#ifdef DD_HAS_ASAN
    ASAN_UNPOISON_MEMORY_REGION(pointer, bytes);
#else
    (void)pointer, (void)bytes;
#endif
}
