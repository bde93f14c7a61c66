/* Compares every build of every kernel with the scalar one: check_kernels [--bench] [--seed N]
 * [--level NAME] [kernel-name-prefix ...].
 *
 * The kernel's name is printed before it runs and a signal is caught, so that a crash names its
 * kernel, level and case. Families stand in kernels_<family>.h; a kernel without check_<kernel>
 * does not link. */
#define _GNU_SOURCE
#include "check_kernels.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kernels_depthwise.h"
#include "kernels_elementwise.h"
#include "kernels_gemm.h"
#include "kernels_move.h"
#include "kernels_measure.h"
#include "kernels_norm.h"
#include "kernels_optimizer.h"
#include "kernels_pool.h"
#include "kernels_winograd.h"

#define DD_KERNEL(name, result, arguments) void check_##name(kernel_check *k);
#include "kernels/kernels.def"
#undef DD_KERNEL

static const struct {
    const char *name;
    void (*check)(kernel_check *k);
} checks[] = {
#define DD_KERNEL(name, result, arguments) {#name, check_##name},
#include "kernels/kernels.def"
#undef DD_KERNEL
};

/* ---- blocks -------------------------------------------------------------------------------- */

/* A signalling pattern that no kernel computes: a NaN with a payload of its own. */
static const uint32_t canary = 0x7fdecade;

static size_t page_bytes(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

static _Noreturn void give_up(const char *what) {
    perror(what);
    exit(2);
}

/* Fills [begin, end) with the canary's bytes, in phase with their addresses. */
static void fill_canary(uint8_t *begin, uint8_t *end) {
    for (uint8_t *p = begin; p < end; p++)
        *p = (uint8_t)(canary >> 8 * ((uintptr_t)p & 3));
}

static bool canary_whole(const uint8_t *begin, const uint8_t *end) {
    for (const uint8_t *p = begin; p < end; p++)
        if (*p != (uint8_t)(canary >> 8 * ((uintptr_t)p & 3)))
            return false;
    return true;
}

/* The accessible bytes around the data that are worth a look: up to a page. */
static uint8_t *margin_begin(const kernel_block *b) {
    uint8_t *first = b->map + page_bytes();
    return (size_t)(b->data - first) > page_bytes() ? b->data - page_bytes() : first;
}

static uint8_t *margin_end(const kernel_block *b) {
    uint8_t *last = b->map + b->map_bytes - page_bytes(), *end = b->data + b->bytes;
    return (size_t)(last - end) > page_bytes() ? end + page_bytes() : last;
}

/* A block for `bytes` bytes of data, its guard pages in place; the data's place is the caller's. */
static kernel_block *block_new(kernel_check *k, size_t bytes) {
    if (k->used == KERNEL_BLOCKS) {
        fprintf(stderr, "check_kernels: more than %d arrays in a case\n", KERNEL_BLOCKS);
        exit(2);
    }
    kernel_block *b = &k->blocks[k->used++];
    size_t page = page_bytes(), inside = (bytes / page + 1) * page;
    if (b->map_bytes < inside + 2 * page) { /* pages are kept from case to case */
        if (b->map)
            munmap(b->map, b->map_bytes);
        b->map_bytes = inside + 2 * page;
        b->map =
            mmap(NULL, b->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (b->map == MAP_FAILED)
            give_up("mmap");
        if (mprotect(b->map, page, PROT_NONE) != 0 ||
            mprotect(b->map + b->map_bytes - page, page, PROT_NONE) != 0)
            give_up("mprotect");
    }
    b->bytes = bytes;
    return b;
}

static void *block_at(kernel_block *b, uint8_t *data) {
    b->data = data;
    fill_canary(margin_begin(b), b->data);
    fill_canary(b->data + b->bytes, margin_end(b));
    return data;
}

void *kernel_bytes(kernel_check *k, size_t bytes) {
    kernel_block *b = block_new(k, bytes);
    const bool first = kernel_draw(k, 0, 2) == 0;
    return block_at(b,
                    first ? b->map + page_bytes() : b->map + b->map_bytes - page_bytes() - bytes);
}

float *kernel_floats(kernel_check *k, int64_t n) {
    return kernel_matrix(k, 1, n, n);
}

static float draw_float(kernel_check *k) {
    return (float)(int32_t)dd_stream_u32(&k->random) * 0x1p-31f;
}

float *kernel_aligned(kernel_check *k, int64_t n) {
    kernel_block *b = block_new(k, (size_t)n * sizeof(float));
    float *x = block_at(b, b->map + page_bytes());
    for (int64_t i = 0; i < n; i++)
        x[i] = draw_float(k);
    return x;
}

float *kernel_matrix(kernel_check *k, int64_t rows, int64_t n, int64_t pitch) {
    size_t count = rows > 0 ? (size_t)((rows - 1) * pitch + n) : 0;
    float *x = kernel_bytes(k, count * sizeof *x);
    fill_canary((uint8_t *)x, (uint8_t *)(x + count));
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < n; i++)
            x[row * pitch + i] = draw_float(k);
    return x;
}

static const kernel_block *block_of(const kernel_check *k, const void *array) {
    for (int i = k->used - 1; i >= 0; i--)
        if (k->blocks[i].data == array)
            return &k->blocks[i];
    fprintf(stderr, "check_kernels: not an array of this case\n");
    exit(2);
}

void *kernel_twin(kernel_check *k, const void *array) {
    size_t bytes = block_of(k, array)->bytes;
    return memcpy(kernel_bytes(k, bytes), array, bytes);
}

/* ---- cases and comparisons ----------------------------------------------------------------- */

void kernel_begin(kernel_check *k, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(k->label, sizeof k->label, format, arguments);
    va_end(arguments);
    k->used = 0;
    k->cases++;
}

bool kernel_end(kernel_check *k) {
    for (int i = 0; i < k->used; i++) {
        const kernel_block *b = &k->blocks[i];
        if (!canary_whole(margin_begin(b), b->data))
            kernel_fail(k, "stored before the start of array %d", i);
        if (!canary_whole(b->data + b->bytes, margin_end(b)))
            kernel_fail(k, "stored behind the end of array %d", i);
    }
    k->used = 0;
    return k->failures == 0;
}

int64_t kernel_draw(kernel_check *k, int64_t low, int64_t high) {
    return low + (int64_t)dd_stream_below(&k->random, (uint32_t)(high - low + 1));
}

void kernel_fail(kernel_check *k, const char *format, ...) {
    if (k->failures++ >= 5) /* the first few tell all */
        return;
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "\n  %s %s, %s: ", k->kernel, k->level, k->label);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
}

bool kernel_same(kernel_check *k, const char *what, const void *got, const void *want) {
    size_t bytes = block_of(k, got)->bytes, i = 0;
    if (bytes != block_of(k, want)->bytes) {
        kernel_fail(k, "%s: the arrays differ in size", what);
        return false;
    }
    const uint8_t *g = got, *w = want;
    for (; i + sizeof(float) <= bytes; i += sizeof(float)) {
        float a, b;
        uint32_t a_bits, b_bits;
        memcpy(&a, g + i, sizeof a);
        memcpy(&b, w + i, sizeof b);
        memcpy(&a_bits, g + i, sizeof a_bits);
        memcpy(&b_bits, w + i, sizeof b_bits);
        bool both_nan = a_bits != canary && b_bits != canary && isnan(a) && isnan(b);
        if (a_bits != b_bits && !both_nan) {
            kernel_fail(k, "%s: float %zu is %.9g (%08x), not %.9g (%08x)", what, i / sizeof a,
                        (double)a, a_bits, (double)b, b_bits);
            return false;
        }
    }
    for (; i < bytes; i++)
        if (g[i] != w[i]) {
            kernel_fail(k, "%s: byte %zu is %d, not %d", what, i, g[i], w[i]);
            return false;
        }
    return true;
}

bool kernel_close(kernel_check *k, const char *what, const float *got, const float *want,
                  int64_t rows, int64_t n, int64_t pitch, double absolute, double relative) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < n; i++) {
            double g = (double)got[row * pitch + i], w = (double)want[row * pitch + i];
            bool good = isnan(w)   ? isnan(g)
                        : isinf(w) ? g == w
                                   : fabs(g - w) <= absolute + relative * fabs(w);
            if (!good) {
                kernel_fail(k, "%s: [%lld, %lld] is %.9g, not %.9g", what, (long long)row,
                            (long long)i, g, w);
                return false;
            }
        }
    return true;
}

/* ---- timing and the walk ------------------------------------------------------------------- */

double kernel_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void kernel_report(const kernel_check *k, const char *label, double amount, const char *unit) {
    printf("\n  %-14s %-7s %-34s %8.2f %s", k->kernel, k->level, label, amount, unit);
}

static sigjmp_buf crashed;

static void on_signal(int number) {
    siglongjmp(crashed, number);
}

static void catch_signals(void) {
    const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};
        if (sigaction(numbers[i], &action, NULL) != 0)
            give_up("sigaction");
    }
}

/* One kernel at one level. */
static void run_check(kernel_check *k, int index, uint64_t seed) {
    k->kernel = checks[index].name;
    k->cases = k->failures = 0;
    snprintf(k->label, sizeof k->label, "before the first case");
    dd_stream_init(&k->random, seed, 0, (uint32_t)index, DD_FOR_TEST);
    printf("%-22s %-7s", k->kernel, k->level);
    fflush(stdout);
    int number = sigsetjmp(crashed, 1);
    if (number == 0)
        checks[index].check(k);
    else
        kernel_fail(k, "died of signal %d (%s)", number, strsignal(number));
    printf(k->failures ? "\n  FAILED after %lld cases\n" : " %lld cases\n", (long long)k->cases);
}

typedef struct options {
    bool bench;
    uint64_t seed;
    const char *level;
    char **names;
    int n_names;
} options;

static bool wanted(const options *o, const char *kernel) {
    for (int i = 0; i < o->n_names; i++)
        if (strncmp(kernel, o->names[i], strlen(o->names[i])) == 0)
            return true;
    return o->n_names == 0;
}

static options options_read(int argc, char **argv) {
    options o = {.seed = 1};
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--bench") == 0) {
            o.bench = true;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            o.seed = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--level") == 0 && i + 1 < argc) {
            o.level = argv[++i];
        } else {
            fprintf(stderr,
                    "usage: check_kernels [--bench] [--seed N] [--level NAME] [kernel ...]\n");
            exit(2);
        }
    }
    o.names = argv + i;
    o.n_names = argc - i;
    return o;
}

int main(int argc, char **argv) {
    options o = options_read(argc, argv);
    kernel_check k = {.ref = dd_kernels_of(DD_ISA_SCALAR), .bench = o.bench};
    int64_t checked = 0, failed = 0;
    catch_signals();
    for (int isa = 0; isa < DD_ISA_COUNT; isa++) {
        k.level = dd_isa_name((dd_isa)isa);
        k.fast = dd_kernels_of((dd_isa)isa);
        if (!k.fast || !dd_isa_supported((dd_isa)isa) || (o.level && strcmp(o.level, k.level) != 0))
            continue;
        for (int i = 0; i < (int)(sizeof checks / sizeof *checks); i++) {
            if (!wanted(&o, checks[i].name))
                continue;
            run_check(&k, i, o.seed);
            checked++;
            failed += k.failures != 0;
        }
    }
    printf("check_kernels: %lld checks, %lld failed\n", (long long)checked, (long long)failed);
    return failed != 0 || checked == 0;
}
