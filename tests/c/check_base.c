/* The base: messages, memory, types, random numbers, levels. check_threads.c has the pool. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/tensor.h"

#include "check.h"

static void check_error(void) {
    CHECK(dd_fail(DD_EIO, "a: %d came, %s", 7, "8 was needed") == DD_EIO, "status");
    CHECK(strcmp(dd_message(), "a: 7 came, 8 was needed") == 0, "%s", dd_message());
    CHECK(dd_fail_within(DD_EFORMAT, "file %s", "x") == DD_EFORMAT, "status");
    CHECK(strcmp(dd_message(), "file x: a: 7 came, 8 was needed") == 0, "%s", dd_message());
    dd_fail(DD_EVALUE, "<%s>", dd_message()); /* its own message as an argument */
    CHECK(strcmp(dd_message(), "<file x: a: 7 came, 8 was needed>") == 0, "%s", dd_message());
    char longer[3000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    dd_fail(DD_EVALUE, "%s", longer);
    CHECK(strlen(dd_message()) == 1023, "%zu", strlen(dd_message()));
    dd_fail_within(DD_EVALUE, "where");
    CHECK(strlen(dd_message()) == 1023 && memcmp(dd_message(), "where: xx", 9) == 0, "cut");
    dd_fail_within(DD_EVALUE, "%s", longer);
    CHECK(strlen(dd_message()) == 1023 && dd_message()[1022] == 'x', "long prefix");
}

static void check_memory(void) {
    uint64_t live = dd_alloc_live();
    for (size_t bytes = 0; bytes < 300; bytes += 37) {
        unsigned char *p = NULL;
        CHECK(dd_alloc(bytes, &p) == DD_OK && (uintptr_t)p % DD_ALIGN == 0, "%zu", bytes);
        memset(p, 1, bytes ? bytes : 1);
        dd_free(p);
    }
    int *items = NULL;
    CHECK(dd_alloc_array(100, sizeof *items, &items) == DD_OK, "array");
    int sum = 0;
    for (int i = 0; i < 100; i++) {
        sum |= items[i];
        items[i] = i;
    }
    CHECK(sum == 0, "an array comes cleared");
    CHECK(dd_realloc_array(&items, 1000, sizeof *items) == DD_OK && items[99] == 99, "grow");
    CHECK(dd_realloc_array(&items, 10, sizeof *items) == DD_OK && items[9] == 9, "shrink");
    CHECK(dd_realloc_array(&items, 0, sizeof *items) == DD_OK && items, "to nothing");
    dd_free(items);
    size_t capacity = 0;
    int *growing = NULL;
    uint64_t calls = dd_alloc_calls();
    for (size_t i = 0; i < 1000; i++) {
        CHECK(dd_reserve(&growing, &capacity, i + 1, sizeof *growing) == DD_OK, "reserve");
        growing[i] = (int)i;
    }
    CHECK(growing[0] == 0 && growing[999] == 999 && capacity >= 1000, "content");
    CHECK(dd_alloc_calls() - calls < 12, "growth by doubling");
    dd_free(growing);
    char *text = NULL;
    CHECK(dd_strdup("word", &text) == DD_OK && strcmp(text, "word") == 0, "strdup");
    dd_poison(text, 5);
    dd_free(text); /* a poisoned block is freed whole */
    dd_free(NULL);
    CHECK(dd_alloc_live() == live, "%llu blocks left", (unsigned long long)dd_alloc_live());
}

static void check_memory_failure(void) {
    int mark, *p = &mark, *before = p;
    CHECK(dd_alloc(SIZE_MAX, &p) == DD_ENOMEM && p == before, "the largest size");
    CHECK(dd_alloc(SIZE_MAX - 10, &p) == DD_ENOMEM && p == before, "the header overflows");
    CHECK(dd_alloc_array(SIZE_MAX / 2, 3, &p) == DD_ENOMEM && p == before, "product");
    CHECK(dd_alloc_array((size_t)1 << 32, (size_t)1 << 32, &p) == DD_ENOMEM, "product is 0");
    CHECK(strstr(dd_message(), "memory: "), "%s", dd_message());
    size_t size = 5;
    CHECK(dd_size_mul(SIZE_MAX, 2, "who", &size) == DD_ENOMEM && size == 5, "mul");
    CHECK(strstr(dd_message(), "who: "), "%s", dd_message());
    CHECK(dd_size_add(SIZE_MAX, 1, "who", &size) == DD_ENOMEM && size == 5, "add");
    CHECK(dd_size_mul(6, 7, "who", &size) == DD_OK && size == 42, "mul");
    CHECK(dd_size_add(6, 7, "who", &size) == DD_OK && size == 13, "add");

    int *kept = NULL;
    CHECK(dd_alloc_array(4, sizeof *kept, &kept) == DD_OK, "array");
    kept[3] = 3;
    before = kept;
    size_t capacity = 4;
    for (uint64_t n = 1; n <= 3; n++) { /* the n-th of three allocations fails, no other */
        dd_alloc_fail_at(n);
        char *copy = NULL;
        CHECK((dd_strdup("x", &copy) == DD_OK) == (n != 1), "first, %d", (int)n);
        dd_free(copy);
        CHECK((dd_realloc_array(&kept, 4, sizeof *kept) == DD_OK) == (n != 2), "second");
        before = kept;
        CHECK((dd_reserve(&kept, &capacity, 9 * n, sizeof *kept) == DD_OK) == (n != 3), "third");
        CHECK(n != 3 || kept == before, "untouched");
        CHECK(kept[3] == 3, "content");
        capacity = n == 3 ? capacity : 4;
    }
    CHECK(capacity == 4, "capacity stays on failure");
    dd_alloc_fail_at(1);
    dd_alloc_fail_at(0);
    CHECK(dd_alloc(1, &p) == DD_OK, "the hook is off");
    dd_free(p);
    dd_free(kept);
}

static void check_random_vectors(void) {
    /* kat_vectors of Random123: philox 4x32, 10 rounds; counter, key, result. */
    static const uint32_t rows[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
         0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
         0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (int i = 0; i < 3; i++) {
        dd_stream s = {0};
        memcpy(s.counter, rows[i], sizeof s.counter);
        memcpy(s.key, rows[i] + 4, sizeof s.key);
        for (int j = 0; j < 4; j++) {
            uint32_t value = dd_stream_u32(&s);
            CHECK(value == rows[i][6 + j], "row %d, word %d: %08x", i, j, value);
        }
    }
}

static void check_random(void) {
    dd_stream a, b;
    dd_stream_init(&a, 0x123456789abcdefull, 3, 5, DD_FOR_TEST);
    b = a;
    for (int i = 0; i < 10; i++)
        CHECK(dd_stream_u32(&a) == dd_stream_u32(&b), "a copy goes on alike");
    CHECK(a.key[0] == 0x89abcdef && a.key[1] == 0x1234567, "the whole seed is the key");
    CHECK(a.counter[1] == DD_FOR_TEST && a.counter[2] == 5 && a.counter[3] == 3, "counter");

    enum { DRAWS = 200000 };
    double sum = 0, square = 0, uniform = 0, fourth = 0;
    int bins[7] = {0}, outside = 0;
    for (int i = 0; i < DRAWS; i++) {
        double z = dd_stream_normal(&a), u = dd_stream_uniform(&a);
        sum += z;
        square += z * z;
        fourth += z * z * z * z;
        uniform += u;
        bins[dd_stream_below(&a, 7)]++;
        float r = dd_stream_range(&a, -2.5f, -2.4999998f); /* one step of float32 apart */
        outside += !(r >= -2.5f && r < -2.4999998f) || !(u >= 0 && u < 1);
    }
    CHECK(fabs(sum / DRAWS) < 0.012 && fabs(square / DRAWS - 1) < 0.02, "normal");
    CHECK(fabs(fourth / DRAWS - 3) < 0.15, "kurtosis %f", fourth / DRAWS);
    CHECK(fabs(uniform / DRAWS - 0.5) < 0.004, "uniform");
    CHECK(outside == 0, "%d draws outside of their range", outside);
    double chi = 0;
    for (int i = 0; i < 7; i++)
        chi += (bins[i] - DRAWS / 7.0) * (bins[i] - DRAWS / 7.0) / (DRAWS / 7.0);
    CHECK(chi < 30, "chi squared %f of 6 degrees", chi);
    CHECK(dd_stream_below(&a, 1) == 0 && dd_stream_range(&a, 4, 4) == 4, "one value");
    uint32_t large = 0;
    for (int i = 0; i < 100; i++)
        large |= dd_stream_below(&a, 0xC0000000u) >= 0xC0000000u;
    CHECK(!large, "below a large n");
}

static void check_shuffle(void) {
    dd_stream s;
    dd_stream_init(&s, 1, 0, 0, DD_FOR_SHUFFLE);
    int counts[24] = {0};
    for (int i = 0; i < 24000; i++) {
        uint32_t p[4] = {0, 1, 2, 3};
        dd_stream_shuffle(&s, p, 4);
        CHECK((1u << p[0] | 1u << p[1] | 1u << p[2] | 1u << p[3]) == 15u, "a permutation");
        uint32_t second = p[1] - (p[1] > p[0]);
        counts[p[0] * 6 + second * 2 + (p[2] > p[3])]++;
    }
    for (int i = 0; i < 24; i++)
        CHECK(abs(counts[i] - 1000) < 150, "permutation %d: %d of 1000", i, counts[i]);
    uint32_t one = 9;
    dd_stream_shuffle(&s, &one, 1);
    dd_stream_shuffle(&s, &one, 0);
    CHECK(one == 9, "nothing to shuffle");
}

static void check_tensor(void) {
    dd_type t = dd_type_make(DD_F32, 4, (int64_t[]){1, 40, 40, 64});
    char text[64], small[8];
    CHECK(strcmp(dd_type_text(&t, text, sizeof text), "f32 (1, 40, 40, 64)") == 0, "%s", text);
    CHECK(strcmp(dd_type_text(&t, small, sizeof small), "f32 (1,") == 0, "%s", small);
    CHECK(dd_type_rows(&t) == 1600 && dd_type_last(&t) == 64 && dd_type_count(&t) == 102400, "n");
    size_t bytes = 1;
    CHECK(dd_type_bytes(&t, "t", &bytes) == DD_OK && bytes == 409600, "%zu", bytes);
    dd_array a = dd_array_dense(text, &t);
    CHECK(a.pitch == 64 && a.data == text && dd_type_equal(&a.type, &t), "dense");

    dd_type scalar = dd_type_make(DD_S32, 0, NULL), row = dd_type_make(DD_U8, 1, (int64_t[]){3});
    CHECK(strcmp(dd_type_text(&scalar, text, sizeof text), "s32 ()") == 0, "%s", text);
    CHECK(strcmp(dd_type_text(&row, text, sizeof text), "u8 (3,)") == 0, "%s", text);
    CHECK(dd_type_rows(&scalar) == 1 && dd_type_count(&scalar) == 1, "rank 0 is one element");
    CHECK(dd_type_rows(&row) == 1 && dd_type_last(&row) == 3, "rank 1 is one row");
    CHECK(!dd_type_equal(&scalar, &row) && dd_type_equal(&row, &row), "equal");
    dd_type other = row;
    other.dtype = DD_S8;
    CHECK(!dd_type_equal(&other, &row), "types differ");
    other = dd_type_make(DD_U8, 1, (int64_t[]){4});
    CHECK(!dd_type_equal(&other, &row), "dimensions differ");

    const struct {
        dd_dtype dtype;
        int rank;
        int64_t dims[DD_MAX_RANK];
        dd_status status;
        size_t bytes;
    } rows[] = {
        {DD_F16, 2, {3, 5}, DD_OK, 30},
        {DD_F32, 3, {7, 0, 5}, DD_OK, 0},
        {DD_F32, 2, {2, -1}, DD_EVALUE, 0},
        {DD_F32, 3, {0, 2, -1}, DD_EVALUE, 0},
        {DD_F32, 7, {1, 1, 1, 1, 1, 1}, DD_EVALUE, 0},
        {DD_F32, -1, {0}, DD_EVALUE, 0},
        {DD_DTYPES, 1, {1}, DD_EVALUE, 0},
        {DD_U8, 1, {(int64_t)1 << 40}, DD_OK, (size_t)1 << 40},
        {DD_U8, 1, {((int64_t)1 << 40) + 1}, DD_ENOMEM, 0},
        {DD_F32, 2, {(int64_t)1 << 20, (int64_t)1 << 20}, DD_ENOMEM, 0},
        {DD_F32, 3, {0, INT64_MAX, INT64_MAX}, DD_ENOMEM, 0},
        {DD_BF16, 4, {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX}, DD_ENOMEM, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        dd_type row_type = {.dtype = rows[i].dtype, .rank = rows[i].rank};
        memcpy(row_type.dims, rows[i].dims, sizeof row_type.dims);
        bytes = 77;
        dd_status status = dd_type_bytes(&row_type, "row", &bytes);
        CHECK(status == rows[i].status, "row %zu: %d %s", i, status, dd_message());
        CHECK(bytes == (status ? 77 : rows[i].bytes), "row %zu: %zu bytes", i, bytes);
    }
    CHECK(dd_dtype_bytes(DD_DTYPES) == 0 && strcmp(dd_dtype_name(DD_DTYPES), "?") == 0, "none");
}

static void check_cpu(void) {
    CHECK(dd_isa_supported(DD_ISA_SCALAR) && !dd_isa_supported(DD_ISA_COUNT), "scalar");
    CHECK(strcmp(dd_isa_name(DD_ISA_AVX2), "avx2") == 0, "name");
    unsetenv("DD_ISA");
    dd_isa best = dd_isa_best();
    CHECK(dd_isa_supported(best), "best");
#if defined(__x86_64__)
    CHECK(dd_isa_supported(DD_ISA_AVX2) ==
              (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")),
          "the compiler's helper agrees");
#endif
    for (int isa = 0; isa < DD_ISA_COUNT; isa++) {
        setenv("DD_ISA", dd_isa_name((dd_isa)isa), 1);
        dd_isa lowered = dd_isa_best();
        CHECK((int)lowered <= isa && lowered <= best && dd_isa_supported(lowered), "%d", isa);
        CHECK(!dd_isa_supported((dd_isa)isa) || (int)lowered == isa, "exactly that level");
        CHECK(dd_isa_check() == DD_OK, "%s", dd_message());
    }
    setenv("DD_ISA", "avx3", 1);
    CHECK(dd_isa_best() == DD_ISA_SCALAR && dd_isa_check() == DD_EVALUE, "unknown");
    CHECK(strstr(dd_message(), "'avx3'"), "%s", dd_message());
    setenv("DD_ISA", "", 1);
    CHECK(dd_isa_best() == best && dd_isa_check() == DD_OK, "empty is unset");
    unsetenv("DD_ISA");
    CHECK(strlen(dd_cpu_name()) < 49, "name");
}

int main(void) {
    check_error();
    check_memory();
    check_memory_failure();
    check_random_vectors();
    check_random();
    check_shuffle();
    check_tensor();
    check_cpu();
    return check_done("base");
}
