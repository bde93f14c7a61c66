/* Checks of depthwise.c. Every level sums in the same order with fused operations: the bits are
 * those of the scalar level. Against double precision: k²·2^-22 for inputs in [-1, 1). */
#ifndef DD_TESTS_KERNELS_DEPTHWISE_H
#define DD_TESTS_KERNELS_DEPTHWISE_H

#include <math.h>

#include "check_kernels.h"
#include "plain_activations.h"

enum { DEPTHWISE_ROWS = 7 };

typedef struct depthwise_shape {
    int k, stride, c;
    int64_t width, in_width, pitch, wpitch, out_pitch;
} depthwise_shape;

/* k and stride mostly from the tuned ones; pitches with and without pad lanes. */
static depthwise_shape draw_depthwise(kernel_check *k) {
    static const int sides[] = {3, 5, 3, 5, 3, 5, 1, 2, 4, 7};
    depthwise_shape s;
    s.k = sides[kernel_draw(k, 0, 9)];
    s.stride = (int)kernel_draw(k, 1, kernel_draw(k, 0, 5) == 0 ? 3 : 2);
    s.c = (int)kernel_draw(k, 1, kernel_draw(k, 0, 1) ? 20 : 75);
    s.width = kernel_draw(k, 1, kernel_draw(k, 0, 1) ? 9 : 40);
    s.in_width = (s.width - 1) * s.stride + s.k;
    s.pitch = s.c + kernel_draw(k, 0, 1) * kernel_draw(k, 1, 9);
    s.wpitch = s.c + kernel_draw(k, 0, 1) * kernel_draw(k, 1, 9);
    s.out_pitch = s.c + kernel_draw(k, 0, 1) * kernel_draw(k, 1, 9);
    kernel_begin(k, "k=%d stride=%d c=%d width=%lld pitch=%lld wpitch=%lld out=%lld", s.k, s.stride,
                 s.c, (long long)s.width, (long long)s.pitch, (long long)s.wpitch,
                 (long long)s.out_pitch);
    return s;
}

static double depthwise_bound(int taps) {
    return taps * 0x1p-22;
}

/* A plain loop from the contract's own words. */
static void plain_depthwise(const dd_depthwise *d, float *y) {
    for (int64_t x = 0; x < d->width; x++)
        for (int c = 0; c < d->c; c++) {
            double sum = d->bias ? (double)d->bias[c] : 0.0;
            for (int r = 0; r < d->k; r++)
                for (int s = 0; s < d->k; s++)
                    sum += (double)d->rows[r][(x * d->stride + s) * d->pitch + c] *
                           (double)d->w[(r * d->k + s) * d->wpitch + c];
            sum = plain_unary(d->act, sum);
            if (d->residual)
                sum += (double)d->residual[x * d->residual_pitch + c];
            y[x * d->y_pitch + c] = (float)sum;
        }
}

/* An array with room behind: a masked load that reaches into a guard page costs hundreds of cycles,
 * which no user pays. */
static float *bench_floats(kernel_check *k, int64_t n) {
    return kernel_floats(k, n + 64);
}

static void bench_depthwise(kernel_check *k) {
    static const struct {
        int k, stride, c, pitch, width;
        dd_unary act;
    } shapes[] = {{3, 1, 16, 16, 160, DD_RELU},        {3, 1, 72, 72, 80, DD_RELU},
                  {3, 1, 72, 80, 80, DD_RELU},         {3, 1, 64, 64, 20, DD_IDENTITY},
                  {3, 2, 64, 64, 80, DD_RELU},         {5, 1, 64, 64, 10, DD_IDENTITY},
                  {5, 1, 64, 64, 40, DD_IDENTITY},     {5, 1, 120, 120, 40, DD_HARD_SWISH},
                  {5, 1, 120, 128, 40, DD_HARD_SWISH}, {5, 1, 144, 144, 40, DD_HARD_SWISH},
                  {5, 2, 72, 72, 40, DD_RELU},         {5, 2, 72, 80, 40, DD_RELU},
                  {7, 1, 64, 64, 40, DD_IDENTITY}};
    for (size_t i = 0; k->bench && i < sizeof shapes / sizeof *shapes; i++) {
        const int side = shapes[i].k, stride = shapes[i].stride, c = shapes[i].c;
        const int pitch = shapes[i].pitch;
        const int64_t width = shapes[i].width, in_width = (width - 1) * stride + side;
        kernel_begin(k, "bench");
        const float *rows[DEPTHWISE_ROWS];
        for (int r = 0; r < side; r++)
            rows[r] = bench_floats(k, in_width * pitch);
        const dd_depthwise d = {.rows = rows,
                                .pitch = pitch,
                                .k = side,
                                .stride = stride,
                                .c = c,
                                .width = width,
                                .w = bench_floats(k, side * side * pitch),
                                .wpitch = pitch,
                                .bias = bench_floats(k, c),
                                .act = {shapes[i].act, 0.0f, 0.0f},
                                .y = bench_floats(k, width * pitch),
                                .y_pitch = pitch};
        char label[64];
        snprintf(label, sizeof label, "k%d s%d c=%d pitch=%d width=%d %s", side, stride, c, pitch,
                 shapes[i].width, plain_names[shapes[i].act]);
        KERNEL_BENCH(k, label, 2.0 * side * side * (double)(c * width), "GFLOP/s",
                     k->fast->depthwise_f32(&d));
        kernel_end(k);
    }
}

void check_depthwise_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 300 && good; i++) {
        const depthwise_shape s = draw_depthwise(k);
        const float *rows[DEPTHWISE_ROWS];
        for (int r = 0; r < s.k; r++)
            rows[r] = kernel_matrix(k, s.in_width, s.c, s.pitch);
        dd_depthwise d = {.rows = rows,
                          .pitch = s.pitch,
                          .k = s.k,
                          .stride = s.stride,
                          .c = s.c,
                          .width = s.width,
                          .w = kernel_matrix(k, s.k * s.k, s.c, s.wpitch),
                          .wpitch = s.wpitch,
                          .act = plain_act(kernel_draw(k, 0, DD_SOFTPLUS)),
                          .y_pitch = s.out_pitch};
        if (kernel_draw(k, 0, 1))
            d.bias = kernel_floats(k, s.c);
        if (kernel_draw(k, 0, 1)) {
            d.residual_pitch = s.c + kernel_draw(k, 0, 5);
            d.residual = kernel_matrix(k, s.width, s.c, d.residual_pitch);
        }
        float *y = kernel_matrix(k, s.width, s.c, s.out_pitch), *ref = kernel_twin(k, y);
        float *want = kernel_twin(k, y);
        plain_depthwise(&d, want);
        d.y = y;
        k->fast->depthwise_f32(&d);
        d.y = ref;
        k->ref->depthwise_f32(&d);
        kernel_same(k, "y against ref", y, ref);
        kernel_close(k, "y", y, want, s.width, s.c, s.out_pitch, depthwise_bound(s.k * s.k), 1e-6);
        good = kernel_end(k);
    }
    bench_depthwise(k);
}

/* From the contract: every pair of a pixel and an output pixel that meet, in double. */
static void plain_depthwise_backward(const dd_depthwise_backward *d, float *dx, double *dw) {
    for (int64_t i = 0; i < d->width; i++)
        for (int c = 0; c < d->c; c++) {
            double sum = 0.0;
            for (int tap = 0; tap < d->k * d->k; tap++)
                for (int64_t out = 0; out < d->out_width; out++) {
                    const float *row = d->dy_rows[tap / d->k];
                    if (!row || out * d->stride + tap % d->k != d->x_begin + i)
                        continue;
                    const double dy = (double)row[out * d->dy_pitch + c];
                    sum += dy * (double)d->w[tap * d->wpitch + c];
                    dw[tap * d->wpitch + c] += dy * (double)d->x[i * d->pitch + c];
                }
            dx[i * d->dx_pitch + c] = (float)sum;
        }
}

static void bench_depthwise_backward(kernel_check *k) {
    static const struct {
        int k, stride, c, width;
    } shapes[] = {{3, 1, 16, 160}, {3, 1, 72, 80},  {3, 2, 64, 80}, {5, 1, 64, 10},
                  {5, 1, 64, 40},  {5, 1, 120, 40}, {5, 2, 72, 40}};
    for (size_t i = 0; k->bench && i < sizeof shapes / sizeof *shapes; i++) {
        const int side = shapes[i].k, stride = shapes[i].stride, c = shapes[i].c;
        const int64_t width = shapes[i].width;
        const double share = stride == 1 ? 1.0 : (side / 2 + 1.0) / side;
        char label[64];
        snprintf(label, sizeof label, "k%d s%d c=%d width=%d", side, stride, c, shapes[i].width);
        kernel_begin(k, "bench");
        const float *rows[DEPTHWISE_ROWS];
        for (int r = 0; r < side; r++) /* stride 2: every other row meets an output row */
            rows[r] = r % stride == 0 ? bench_floats(k, width * c) : NULL;
        const dd_depthwise_backward d = {.dy_rows = rows,
                                         .dy_pitch = c,
                                         .out_width = width,
                                         .k = side,
                                         .stride = stride,
                                         .c = c,
                                         .x_begin = side / 2,
                                         .width = width * stride,
                                         .x = bench_floats(k, width * stride * c),
                                         .pitch = c,
                                         .w = bench_floats(k, side * side * c),
                                         .wpitch = c,
                                         .dx = bench_floats(k, width * stride * c),
                                         .dx_pitch = c,
                                         .dw = bench_floats(k, side * side * c)};
        KERNEL_BENCH(k, label, 4.0 * side * side * (double)(c * width) * share, "GFLOP/s",
                     k->fast->depthwise_backward_f32(&d));
        kernel_end(k);
    }
}

void check_depthwise_backward_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 300 && good; i++) {
        const depthwise_shape s = draw_depthwise(k);
        const float *rows[DEPTHWISE_ROWS];
        for (int r = 0; r < s.k; r++)
            rows[r] = kernel_draw(k, 0, 3) ? kernel_matrix(k, s.width, s.c, s.pitch) : NULL;
        const int64_t begin = kernel_draw(k, 0, s.in_width - 1);
        dd_depthwise_backward d = {.dy_rows = rows,
                                   .dy_pitch = s.pitch,
                                   .out_width = s.width,
                                   .k = s.k,
                                   .stride = s.stride,
                                   .c = s.c,
                                   .x_begin = kernel_draw(k, 0, 1) ? begin : s.k / 2,
                                   .pitch = s.c + kernel_draw(k, 0, 5),
                                   .w = kernel_matrix(k, s.k * s.k, s.c, s.wpitch),
                                   .wpitch = s.wpitch,
                                   .dx_pitch = s.out_pitch};
        /* the padded row may be longer than what the outputs read */
        d.width = s.in_width + kernel_draw(k, 0, 3) - d.x_begin;
        d.x = kernel_matrix(k, d.width, s.c, d.pitch);
        float *dx = kernel_matrix(k, d.width, s.c, s.out_pitch), *ref = kernel_twin(k, dx);
        float *want = kernel_twin(k, dx);
        float *dw = kernel_matrix(k, s.k * s.k, s.c, s.wpitch), *dw_ref = kernel_twin(k, dw);
        float *dw_want = kernel_twin(k, dw);
        static double exact[DEPTHWISE_ROWS * DEPTHWISE_ROWS * 96];
        for (int64_t j = 0; j < s.k * s.k * s.wpitch; j++)
            exact[j] = j % s.wpitch < s.c ? (double)dw[j] : 0.0;
        plain_depthwise_backward(&d, want, exact);
        for (int64_t j = 0; j < s.k * s.k * s.wpitch; j++)
            if (j % s.wpitch < s.c)
                dw_want[j] = (float)exact[j];
        d.dx = dx;
        d.dw = dw;
        k->fast->depthwise_backward_f32(&d);
        d.dx = ref;
        d.dw = dw_ref;
        k->ref->depthwise_backward_f32(&d);
        kernel_same(k, "dx against ref", dx, ref);
        kernel_close(k, "dx", dx, want, d.width, s.c, s.out_pitch, depthwise_bound(s.k * s.k),
                     1e-6);
        kernel_same(k, "dw against ref", dw, dw_ref);
        kernel_close(k, "dw", dw, dw_want, s.k * s.k, s.c, s.wpitch,
                     depthwise_bound((int)s.width + 1), 1e-6);
        good = kernel_end(k);
    }
    bench_depthwise_backward(k);
}

#endif
