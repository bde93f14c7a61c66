/* Checks of the matrix products. All levels sum in the same order with fused multiply-adds, so
 * every level must give the scalar build's bits; that build is held to double precision with the
 * bound (terms + 4) · 2⁻²⁴ · Σ |a·b| of a chain of roundings. */
#ifndef DD_TESTS_KERNELS_GEMM_H
#define DD_TESTS_KERNELS_GEMM_H

#include <math.h>
#include <stdio.h>

#include "check_kernels.h"

/* Column counts of real nets, and what lies around the widths of tiles. */
static const int gemm_columns[] = {1,  2,  3,  4,  5,  7,  8,  9,  12, 15, 16,  17,  24,  31,  32,
                                   33, 36, 40, 48, 63, 64, 65, 72, 80, 96, 112, 120, 128, 160, 255};

static int gemm_draw_columns(kernel_check *k) {
    const int count = (int)(sizeof gemm_columns / sizeof *gemm_columns);
    return kernel_draw(k, 0, 3) == 0 ? (int)kernel_draw(k, 1, 260)
                                     : gemm_columns[kernel_draw(k, 0, count - 1)];
}

static double gemm_act(dd_act act, double x) {
    switch (act.kind) {
    case DD_RELU:
        return x > 0 ? x : 0;
    case DD_CLIP:
        return fmin(act.b, fmax(act.a, x));
    case DD_LEAKY_RELU:
        return x > 0 ? x : x * act.a;
    case DD_HARD_SIGMOID:
        return fmin(1, fmax(0, x / 6 + 0.5));
    case DD_HARD_SWISH:
        return x * fmin(1, fmax(0, x / 6 + 0.5));
    case DD_SILU:
        return x / (1 + exp(-x));
    default:
        return x;
    }
}

/* B as the caller has it: element (row, column) at b[row·row_step + column·column_step]. */
typedef struct gemm_plain {
    const float *b;
    int64_t row_step, column_step;
    const float *old; /* C's values from before, or NULL */
} gemm_plain;

/* Rows of segment s of B, and of all. */
static int gemm_length(const dd_gemm *g, int s) {
    return g->ks ? g->ks[s] : g->k;
}

static int gemm_rows(const dd_gemm *g) {
    int rows = 0;
    for (int s = 0; s < g->segments; s++)
        rows += gemm_length(g, s);
    return rows;
}

/* One element by a plain loop in double, and how far a float chain may be from it. */
static void gemm_element(const dd_gemm *g, const gemm_plain *p, int64_t m, int n, double *want,
                         double *bound) {
    double sum = 0, size = 0, x;
    int64_t row = 0;
    for (int s = 0; s < g->segments; s++)
        for (int k = 0; k < gemm_length(g, s); k++) {
            x = (double)g->a[s][m * g->lda + k] *
                (double)p->b[row++ * p->row_step + n * p->column_step];
            sum += x;
            size += fabs(x);
        }
    const double extra[] = {p->old ? (double)p->old[m * g->ldc + n] : 0,
                            g->bias ? (double)g->bias[n] : 0,
                            g->residual ? (double)g->residual[m * g->ldr + n] : 0};
    for (int i = 0; i < 3; i++) {
        sum += i == 2 && g->act_first ? 0 : extra[i];
        size += fabs(extra[i]);
    }
    *want = gemm_act(g->act, sum) + (g->act_first ? extra[2] : 0);
    /* No activation here is steeper than 1.5; its own roundings are a few more units. */
    *bound = 1.5 * (gemm_rows(g) + 4) * 0x1p-24 * size + 0x1p-21 * fabs(*want);
}

static void gemm_hold_to_double(kernel_check *k, const dd_gemm *g, const gemm_plain *p, int begin,
                                int end) {
    for (int64_t m = 0; m < g->m; m++)
        for (int n = begin; n < end; n++) {
            double want, bound, got = (double)g->c[m * g->ldc + n];
            gemm_element(g, p, m, n, &want, &bound);
            if (!(fabs(got - want) <= bound)) {
                kernel_fail(k, "[%lld, %d] is %.9g, not %.9g within %.2g", (long long)m, n, got,
                            want, bound);
                return;
            }
        }
}

static dd_act gemm_draw_act(kernel_check *k) {
    static const dd_act acts[] = {
        {DD_IDENTITY, 0, 0},      {DD_RELU, 0, 0},       {DD_CLIP, -0.5f, 0.75f},
        {DD_LEAKY_RELU, 0.1f, 0}, {DD_HARD_SWISH, 0, 0}, {DD_HARD_SIGMOID, 0, 0},
        {DD_SILU, 0, 0},
    };
    return acts[kernel_draw(k, 0, 6)];
}

/* The inputs of one case: A's segments are windows of one array or arrays of their own. */
typedef struct gemm_inputs {
    const float *a[9];
    int ks[9];
    const float *bias, *residual;
    float *c;
    gemm_plain plain;
} gemm_inputs;

static void gemm_draw(kernel_check *k, dd_gemm *g, gemm_inputs *in) {
    *g = (dd_gemm){.segments = kernel_draw(k, 0, 1) ? 1 : (int)kernel_draw(k, 2, 9),
                   .m = kernel_draw(k, 1, kernel_draw(k, 0, 9) ? 50 : 400),
                   .n = gemm_draw_columns(k),
                   .act = gemm_draw_act(k),
                   .act_first = kernel_draw(k, 0, 3) == 0,
                   .accumulate = kernel_draw(k, 0, 3) == 0};
    g->k = (int)kernel_draw(k, 1, g->segments > 1 || g->m > 50 ? 16 : 90);
    g->lda = g->k + kernel_draw(k, 0, 9);
    g->ldc = g->n + kernel_draw(k, 0, 9);
    g->ldr = g->n + kernel_draw(k, 0, 9);
    for (int s = 0; s < g->segments; s++)
        in->ks[s] = (int)kernel_draw(k, 1, g->k);
    g->ks = kernel_draw(k, 0, 3) == 0 ? in->ks : NULL;
    const bool transposed = kernel_draw(k, 0, 1) != 0;
    const int rows = gemm_rows(g);
    kernel_begin(k, "m %lld, k %d x %d, n %d, lda %lld, ldc %lld, act %d, accumulate %d",
                 (long long)g->m, g->segments, g->k, g->n, (long long)g->lda, (long long)g->ldc,
                 (int)g->act.kind, g->accumulate);
    for (int s = 0; s < g->segments; s++)
        in->a[s] = kernel_matrix(k, g->m, g->k, g->lda);
    g->a = in->a;
    in->plain.row_step = transposed ? 1 : g->n + kernel_draw(k, 0, 3);
    in->plain.column_step = transposed ? rows + kernel_draw(k, 0, 3) : 1;
    in->plain.b = transposed ? kernel_matrix(k, g->n, rows, in->plain.column_step)
                             : kernel_matrix(k, rows, g->n, in->plain.row_step);
    in->bias = kernel_draw(k, 0, 1) ? kernel_floats(k, g->n) : NULL;
    in->c = kernel_matrix(k, g->m, g->n, g->ldc);
    switch (g->act_first ? 2 : kernel_draw(k, 0, 2)) {
    case 0:
        in->residual = NULL;
        break;
    case 1: /* C itself */
        g->ldr = g->ldc;
        in->residual = in->c;
        break;
    default:
        in->residual = kernel_matrix(k, g->m, g->n, g->ldr);
    }
    g->bias = in->bias;
}

/* Packs and multiplies at one level into a twin of C; returns the twin. */
static float *gemm_run(kernel_check *k, const dd_kernels_table *table, dd_gemm g,
                       const gemm_inputs *in) {
    const int64_t rows = gemm_rows(&g);
    float *packed = kernel_floats(k, (int64_t)table->gemm_f32_packed(rows, g.n));
    table->gemm_f32_pack(in->plain.b, in->plain.row_step, in->plain.column_step, rows, g.n, packed);
    g.b = packed;
    g.c = kernel_twin(k, in->c);
    g.residual = in->residual == in->c ? g.c : in->residual;
    table->gemm_f32(&g);
    return g.c;
}

static void gemm_bench(kernel_check *k) {
    static const struct {
        int segments, k, n;
    } shapes[] = {{1, 16, 64}, {1, 24, 72}, {1, 64, 24},  {1, 72, 24},  {1, 40, 120},  {1, 120, 40},
                  {1, 64, 64}, {1, 96, 96}, {3, 288, 96}, {3, 120, 80}, {3, 480, 160}, {3, 9, 16}};
    static const int heights[] = {10, 20, 40, 100, 400, 1600};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t j = 0; j < sizeof heights / sizeof *heights; j++) {
            dd_gemm g = {.segments = shapes[i].segments,
                         .k = shapes[i].k,
                         .n = shapes[i].n,
                         .m = heights[j],
                         .act = {DD_RELU, 0, 0}};
            /* As a convolution's: the segments of a row overlap those of the next ones. */
            g.lda = g.segments > 1 ? g.k / g.segments : g.k;
            g.ldc = g.n;
            const int64_t rows = (int64_t)g.segments * g.k;
            kernel_begin(k, "timing");
            const float *a[3];
            for (int s = 0; s < g.segments; s++)
                a[s] = kernel_aligned(k, g.m * g.lda + g.k);
            float *b = kernel_aligned(k, rows * g.n);
            float *packed = kernel_aligned(k, (int64_t)k->fast->gemm_f32_packed(rows, g.n));
            k->fast->gemm_f32_pack(b, g.n, 1, rows, g.n, packed);
            g.a = a;
            g.b = packed;
            g.c = kernel_aligned(k, g.m * g.n);
            g.bias = kernel_aligned(k, g.n);
            char label[64];
            snprintf(label, sizeof label, "m %4lld k %d·%3d n %3d", (long long)g.m, g.segments, g.k,
                     g.n);
            KERNEL_BENCH(k, label, 2.0 * (double)(g.m * rows * g.n), "GFLOP/s",
                         k->fast->gemm_f32(&g));
        }
}

void check_gemm_f32(kernel_check *k) {
    for (int i = 0; i < 200; i++) {
        dd_gemm g;
        gemm_inputs in = {0};
        gemm_draw(k, &g, &in);
        float *got = gemm_run(k, k->fast, g, &in), *want = gemm_run(k, k->ref, g, &in);
        kernel_same(k, "C", got, want);
        if (k->fast == k->ref) {
            in.plain.old = g.accumulate ? in.c : NULL;
            g.c = got;
            g.residual = in.residual;
            gemm_hold_to_double(k, &g, &in.plain, 0, g.n);
        }
        if (!kernel_end(k))
            return;
    }
    if (k->bench)
        gemm_bench(k);
}

/* A panel is the unit of n_begin and n_end: the products of the panels, each on its own and with
 * any cut of the rows, are the bits of the whole product. */
void check_gemm_f32_panel(kernel_check *k) {
    for (int i = 0; i < 60; i++) {
        dd_gemm g;
        gemm_inputs in = {0};
        gemm_draw(k, &g, &in);
        float *want = gemm_run(k, k->fast, g, &in), *got = kernel_twin(k, in.c);
        const int64_t rows = gemm_rows(&g), m = g.m, cut = kernel_draw(k, 0, m);
        const int panel = k->fast->gemm_f32_panel(g.n);
        float *packed = kernel_floats(k, (int64_t)k->fast->gemm_f32_packed(rows, g.n));
        k->fast->gemm_f32_pack(in.plain.b, in.plain.row_step, in.plain.column_step, rows, g.n,
                               packed);
        g.b = packed;
        for (int part = 0; part < 2; part++) {
            const int64_t first = part ? cut : 0;
            const float *a[9];
            for (int s = 0; s < g.segments; s++)
                a[s] = in.a[s] + first * g.lda;
            g.a = a;
            g.m = part ? m - cut : cut;
            g.c = got + first * g.ldc;
            g.residual = in.residual == in.c ? g.c : in.residual;
            if (in.residual && in.residual != in.c)
                g.residual = in.residual + first * g.ldr;
            for (g.n_begin = 0; g.n_begin < g.n; g.n_begin = g.n_end) {
                g.n_end = g.n_begin + panel < g.n ? g.n_begin + panel : g.n;
                k->fast->gemm_f32(&g);
            }
        }
        kernel_same(k, "C by panels", got, want);
        if (!kernel_end(k))
            return;
    }
}

/* Packing loses nothing: a product with the unit matrix gives B back, transposed or not. */
void check_gemm_f32_pack(kernel_check *k) {
    for (int i = 0; i < 60; i++) {
        const int rows = (int)kernel_draw(k, 1, 40), n = gemm_draw_columns(k);
        const int64_t step = n + kernel_draw(k, 0, 5);
        kernel_begin(k, "rows %d, n %d, step %lld", rows, n, (long long)step);
        float *b = kernel_matrix(k, rows, n, step), *unit = kernel_floats(k, rows * rows);
        for (int r = 0; r < rows * rows; r++)
            unit[r] = r % (rows + 1) == 0 ? 1.0f : 0.0f;
        float *packed = kernel_floats(k, (int64_t)k->fast->gemm_f32_packed(rows, n));
        k->fast->gemm_f32_pack(b, step, 1, rows, n, packed);
        const float *a[1] = {unit};
        float *c = kernel_matrix(k, rows, n, step);
        k->fast->gemm_f32(&(dd_gemm){.a = a,
                                     .lda = rows,
                                     .segments = 1,
                                     .k = rows,
                                     .b = packed,
                                     .c = c,
                                     .ldc = step,
                                     .m = rows,
                                     .n = n});
        kernel_same(k, "B back", c, b);
        if (!kernel_end(k))
            return;
    }
}

/* The size counts whole vectors: at least the matrix, less than a panel more a row, and what
 * gemm_f32_pack fills to the last float (the guard page stands behind it in every case above). */
void check_gemm_f32_packed(kernel_check *k) {
    for (int n = 1; n <= 300; n++) {
        kernel_begin(k, "n %d", n);
        const size_t size = k->fast->gemm_f32_packed(7, n);
        if (size < 7 * (size_t)n || size % 7 != 0 || size / 7 > (size_t)n + 15)
            kernel_fail(k, "7 rows take %zu floats", size);
        if (k->fast->gemm_f32_panel(n) < 1)
            kernel_fail(k, "the panel has %d columns", k->fast->gemm_f32_panel(n));
        if (!kernel_end(k))
            return;
    }
}

/* ---- the weight gradient ------------------------------------------------------------------- */

static void gemm_tn_hold_to_double(kernel_check *k, const dd_gemm_tn *g, const float *old) {
    for (int row = 0; row < g->k; row++)
        for (int n = 0; n < g->n; n++) {
            double want = (double)old[row * g->ldc + n], size = fabs(want);
            double got = (double)g->c[row * g->ldc + n];
            for (int64_t m = 0; m < g->m; m++) {
                double x = (double)g->a[m * g->lda + row] * (double)g->b[m * g->ldb + n];
                want += x;
                size += fabs(x);
            }
            if (!(fabs(got - want) <= (double)(g->m + 4) * 0x1p-24 * size)) {
                kernel_fail(k, "[%d, %d] is %.9g, not %.9g", row, n, got, want);
                return;
            }
        }
}

static void gemm_tn_bench(kernel_check *k) {
    static const struct {
        int m, k, n;
    } shapes[] = {{25600, 16, 16}, {25600, 16, 64}, {6400, 64, 24},  {6400, 24, 72},
                  {1600, 72, 40},  {1600, 40, 120}, {1600, 120, 40}, {400, 96, 96},
                  {400, 288, 96},  {400, 480, 160}, {100, 160, 160}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        dd_gemm_tn g = {.m = shapes[i].m, .k = shapes[i].k, .n = shapes[i].n};
        kernel_begin(k, "timing");
        g.lda = g.k;
        g.ldb = g.ldc = g.n;
        g.a = kernel_aligned(k, g.m * g.k);
        g.b = kernel_aligned(k, g.m * g.n);
        g.c = kernel_aligned(k, (int64_t)g.k * g.n);
        char label[64];
        snprintf(label, sizeof label, "m %5lld k %3d n %3d", (long long)g.m, g.k, g.n);
        KERNEL_BENCH(k, label, 2.0 * (double)g.m * g.k * g.n, "GFLOP/s", k->fast->gemm_tn_f32(&g));
    }
}

void check_gemm_tn_f32(kernel_check *k) {
    for (int i = 0; i < 100; i++) {
        dd_gemm_tn g = {.m = kernel_draw(k, 0, 3) ? kernel_draw(k, 0, 40) : kernel_draw(k, 40, 500),
                        .k = (int)kernel_draw(k, 1, 60),
                        .n = gemm_draw_columns(k)};
        g.lda = g.k + kernel_draw(k, 0, 9);
        g.ldb = g.n + kernel_draw(k, 0, 9);
        g.ldc = g.n + kernel_draw(k, 0, 9);
        kernel_begin(k, "m %lld, k %d, n %d, pitches %lld %lld %lld", (long long)g.m, g.k, g.n,
                     (long long)g.lda, (long long)g.ldb, (long long)g.ldc);
        g.a = kernel_matrix(k, g.m, g.k, g.lda);
        g.b = kernel_matrix(k, g.m, g.n, g.ldb);
        float *old = kernel_matrix(k, g.k, g.n, g.ldc);
        float *want = kernel_twin(k, old), *got = kernel_twin(k, old);
        g.c = want;
        k->ref->gemm_tn_f32(&g);
        g.c = got;
        k->fast->gemm_tn_f32(&g);
        kernel_same(k, "C", got, want);
        if (k->fast == k->ref)
            gemm_tn_hold_to_double(k, &g, old);
        if (!kernel_end(k))
            return;
    }
    if (k->bench)
        gemm_tn_bench(k);
}

#endif
