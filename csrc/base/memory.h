/* All heap goes through these functions, so that a test can count it and make the N-th allocation
 * fail. Blocks are aligned to 64 bytes. Kernels and operators never allocate. */
#ifndef DD_BASE_MEMORY_H
#define DD_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define DD_ALIGN 64

/* `*out` gets `bytes` bytes (at least one), not cleared. Fails with DD_ENOMEM. */
dd_status dd_alloc(size_t bytes, void *out_pointer);

/* `count` elements of `size` bytes, cleared; the product is checked. */
dd_status dd_alloc_array(size_t count, size_t size, void *out_pointer);

/* Grows or shrinks *pointer to count × size bytes and keeps its content; the new part is not
 * cleared. On failure *pointer is as it was. *pointer may be NULL. */
dd_status dd_realloc_array(void *pointer_to_pointer, size_t count, size_t size);

/* Makes room for `needed` elements in a growing array: doubles *capacity as needed. */
dd_status dd_reserve(void *pointer_to_pointer, size_t *capacity, size_t needed, size_t size);

/* NULL is allowed. */
void dd_free(void *pointer);

/* A copy of `text` on the heap. */
dd_status dd_strdup(const char *text, char **out);

/* *out = a · b, or a + b; DD_ENOMEM with `who` in the message when it does not fit in size_t. */
dd_status dd_size_mul(size_t a, size_t b, const char *who, size_t *out);
dd_status dd_size_add(size_t a, size_t b, const char *who, size_t *out);

/* The test hook: the n-th allocation from now on fails (1 = the next one); 0 turns it off. */
void dd_alloc_fail_at(uint64_t n);
uint64_t dd_alloc_calls(void); /* allocations since the process began */
uint64_t dd_alloc_live(void);  /* blocks not yet freed */

/* Marks bytes as unusable or usable again under AddressSanitizer; nothing in other builds. */
void dd_poison(const void *pointer, size_t bytes);
void dd_unpoison(const void *pointer, size_t bytes);

#endif
