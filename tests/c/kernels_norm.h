/* Checks of norm.c. Maps: the bits of the scalar level, and 1e-6 from double precision. Sums: the
 * order within a row depends on the level, so every level is held to double precision, with the
 * bound of a float32 chain: terms · 2^-23 · Σ |term| of a row at most, taken over all rows. */
#ifndef DD_TESTS_KERNELS_NORM_H
#define DD_TESTS_KERNELS_NORM_H

#include <math.h>

#include "check_kernels.h"
#include "plain_activations.h"

typedef struct norm_shape {
    int c;
    int64_t pitch, width, rows, row_pitch;
} norm_shape;

static norm_shape draw_norm(kernel_check *k) {
    norm_shape s;
    s.c = (int)kernel_draw(k, 1, kernel_draw(k, 0, 1) ? 20 : kernel_draw(k, 0, 9) ? 150 : 300);
    s.pitch = s.c + kernel_draw(k, 0, 1) * kernel_draw(k, 1, 9);
    s.width = kernel_draw(k, 1, kernel_draw(k, 0, 1) ? 6 : 40);
    s.rows = kernel_draw(k, 1, 4);
    s.row_pitch = s.width * s.pitch; /* one matrix of rows·width pixels */
    kernel_begin(k, "c=%d pitch=%lld width=%lld rows=%lld", s.c, (long long)s.pitch,
                 (long long)s.width, (long long)s.rows);
    return s;
}

/* The array as bfloat16; its numbers are cut to what that holds, so that both are the same. */
static const float *as_bf16(kernel_check *k, float *x, int64_t rows, int c, int64_t pitch) {
    uint16_t *halves = kernel_bytes(k, (size_t)((rows - 1) * pitch + c) * sizeof *halves);
    for (int64_t row = 0; row < rows; row++)
        for (int i = 0; i < c; i++) {
            uint32_t bits;
            memcpy(&bits, &x[row * pitch + i], sizeof bits);
            halves[row * pitch + i] = (uint16_t)(bits >> 16);
            bits &= 0xffff0000u;
            memcpy(&x[row * pitch + i], &bits, sizeof bits);
        }
    return (const float *)(const void *)halves;
}

static double *draw_doubles(kernel_check *k, int n) {
    double *x = kernel_bytes(k, (size_t)n * sizeof *x);
    for (int i = 0; i < n; i++)
        x[i] = (double)kernel_draw(k, -100, 100);
    return x;
}

static void close_sums(kernel_check *k, const char *what, const double *got, const double *want,
                       const double *size, int c, int64_t width) {
    for (int i = 0; i < c; i++)
        if (!(fabs(got[i] - want[i]) <= (double)(width + 4) * 0x1p-23 * size[i] + 1e-12)) {
            kernel_fail(k, "%s[%d] is %.12g, not %.12g", what, i, got[i], want[i]);
            return;
        }
}

/* Times all four on a map of `width`² pixels: bytes moved per second. */
static void bench_norm(kernel_check *k, int which) {
    static const struct {
        int c, width;
        dd_unary act;
    } shapes[] = {{16, 40, DD_RELU},       {24, 40, DD_RELU},        {72, 20, DD_RELU},
                  {64, 20, DD_HARD_SWISH}, {144, 20, DD_HARD_SWISH}, {96, 160, DD_RELU},
                  {24, 320, DD_RELU}};
    for (size_t i = 0; k->bench && i < sizeof shapes / sizeof *shapes; i++) {
        const int c = shapes[i].c;
        const int64_t width = shapes[i].width, pixels = width * width;
        const double bytes = 4.0 * (double)(pixels * c);
        const dd_act act = {shapes[i].act, 0.0f, 0.0f};
        char label[64];
        snprintf(label, sizeof label, "c=%d map=%d %s", c, shapes[i].width, plain_names[act.kind]);
        kernel_begin(k, "bench");
        /* room behind: a masked load that reaches into a guard page costs hundreds of cycles */
        float *x = kernel_floats(k, pixels * c + 64), *y = kernel_floats(k, pixels * c + 64);
        const float *one = kernel_floats(k, c + 64), *two = kernel_floats(k, c + 64);
        double *sum = draw_doubles(k, c + 64), *sum2 = draw_doubles(k, c + 64);
        if (which == 0) {
            const dd_channel_sums s = {x, c, width * c, width, width, c, one, sum, sum2};
            KERNEL_BENCH(k, label, bytes, "GB/s", k->fast->channel_sums_f32(&s));
        } else if (which == 1) {
            const dd_affine a = {x, c, y, c, pixels, c, one, two, act, NULL, 0, false};
            KERNEL_BENCH(k, label, 2.0 * bytes, "GB/s", k->fast->affine_f32(&a));
        } else if (which == 2) {
            const dd_bn_reduce r = {y,   c,   width * c, x,   c,   width * c, width, width, c,
                                    one, two, one,       act, sum, sum2,      false, false};
            KERNEL_BENCH(k, label, 2.0 * bytes, "GB/s", k->fast->bn_reduce_f32(&r));
        } else {
            const dd_bn_dx b = {y,   c,   x,   c,   y,   c,   pixels, c,
                                one, two, one, two, one, act, false,  false};
            KERNEL_BENCH(k, label, 3.0 * bytes, "GB/s", k->fast->bn_dx_f32(&b));
        }
        kernel_end(k);
    }
}

void check_channel_sums_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 200 && good; i++) {
        const norm_shape s = draw_norm(k);
        dd_channel_sums d = {.x = kernel_matrix(k, s.rows * s.width, s.c, s.pitch),
                             .pitch = s.pitch,
                             .row_pitch = s.row_pitch,
                             .width = s.width,
                             .rows = s.rows,
                             .c = s.c};
        d.shift = kernel_draw(k, 0, 2) ? kernel_floats(k, s.c) : NULL;
        d.sum = draw_doubles(k, s.c);
        d.squares = kernel_draw(k, 0, 2) ? draw_doubles(k, s.c) : NULL;
        double *sum = kernel_twin(k, d.sum), *size = kernel_twin(k, d.sum);
        double *squares = d.squares ? kernel_twin(k, d.squares) : kernel_twin(k, d.sum);
        double *squares_size = kernel_twin(k, d.sum);
        for (int c = 0; c < s.c; c++) {
            size[c] = squares_size[c] = 0.0;
            for (int64_t p = 0; p < s.rows * s.width; p++) {
                const double shift = d.shift ? (double)d.shift[c] : 0.0;
                const double v = (double)d.x[p * s.pitch + c] - shift;
                sum[c] += v;
                size[c] += fabs(v);
                squares[c] += v * v;
                squares_size[c] += v * v;
            }
        }
        k->fast->channel_sums_f32(&d);
        close_sums(k, "sum", d.sum, sum, size, s.c, s.width);
        if (d.squares)
            close_sums(k, "squares", d.squares, squares, squares_size, s.c, s.width);
        good = kernel_end(k);
    }
    bench_norm(k, 0);
}

void check_affine_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 300 && good; i++) {
        const norm_shape s = draw_norm(k);
        const int64_t pixels = s.rows * s.width;
        float *x = kernel_matrix(k, pixels, s.c, s.pitch);
        const float *halves = as_bf16(k, x, pixels, s.c, s.pitch);
        dd_affine a = {.x = x,
                       .pitch = s.pitch,
                       .y_pitch = s.c + kernel_draw(k, 0, 6),
                       .pixels = pixels,
                       .c = s.c,
                       .act = plain_act(kernel_draw(k, 0, DD_EXP))};
        a.scale = kernel_draw(k, 0, 3) ? kernel_floats(k, s.c) : NULL;
        a.shift = kernel_draw(k, 0, 3) ? kernel_floats(k, s.c) : NULL;
        a.residual_pitch = s.c + kernel_draw(k, 0, 6);
        a.residual = kernel_draw(k, 0, 1) ? kernel_matrix(k, pixels, s.c, a.residual_pitch) : NULL;
        float *y = kernel_matrix(k, pixels, s.c, a.y_pitch), *ref = kernel_twin(k, y);
        float *want = kernel_twin(k, y);
        for (int64_t p = 0; p < pixels; p++)
            for (int c = 0; c < s.c; c++) {
                double v = (double)a.x[p * s.pitch + c];
                v = v * (a.scale ? (double)a.scale[c] : 1.0) + (a.shift ? (double)a.shift[c] : 0.0);
                v = plain_unary(a.act, v);
                v += a.residual ? (double)a.residual[p * a.residual_pitch + c] : 0.0;
                want[p * a.y_pitch + c] = (float)v;
            }
        a.y = y;
        k->fast->affine_f32(&a);
        a.y = ref;
        k->ref->affine_f32(&a);
        kernel_same(k, "y against ref", y, ref);
        kernel_close(k, "y", y, want, pixels, s.c, a.y_pitch, 5e-7, 1e-6);
        a.y = ref;
        a.x = halves;
        a.x_bf16 = true;
        k->fast->affine_f32(&a);
        kernel_same(k, "y of bfloat16", ref, y);
        good = kernel_end(k);
    }
    bench_norm(k, 1);
}

/* dz · act'(u); u is rounded as the kernels round it, so that both stand on one side of a kink. */
static double plain_through(dd_act act, float dz, float x, float scale, float shift) {
    return (double)dz * plain_slope(act, (double)fmaf(x, scale, shift));
}

void check_bn_reduce_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 200 && good; i++) {
        const norm_shape s = draw_norm(k);
        const int64_t pixels = s.rows * s.width, dz_pitch = s.c + kernel_draw(k, 0, 6);
        float *dz = kernel_matrix(k, pixels, s.c, dz_pitch);
        float *x = kernel_matrix(k, pixels, s.c, s.pitch);
        const float *dz_halves = as_bf16(k, dz, pixels, s.c, dz_pitch);
        const float *x_halves = as_bf16(k, x, pixels, s.c, s.pitch);
        dd_bn_reduce r = {.dz = dz,
                          .dz_pitch = dz_pitch,
                          .dz_row_pitch = s.width * dz_pitch,
                          .x = x,
                          .pitch = s.pitch,
                          .row_pitch = s.row_pitch,
                          .width = s.width,
                          .rows = s.rows,
                          .c = s.c,
                          .scale = kernel_floats(k, s.c),
                          .shift = kernel_floats(k, s.c),
                          .mean = kernel_floats(k, s.c),
                          .act = plain_act(kernel_draw(k, 0, DD_EXP))};
        r.sum_d = draw_doubles(k, s.c);
        r.sum_dx = draw_doubles(k, s.c);
        double *sum_d = kernel_twin(k, r.sum_d), *sum_dx = kernel_twin(k, r.sum_dx);
        double *size = kernel_twin(k, r.sum_d), *size_dx = kernel_twin(k, r.sum_d);
        for (int c = 0; c < s.c; c++) {
            size[c] = size_dx[c] = 0.0;
            for (int64_t p = 0; p < pixels; p++) {
                const float v = r.x[p * s.pitch + c];
                const double d =
                    plain_through(r.act, r.dz[p * dz_pitch + c], v, r.scale[c], r.shift[c]);
                const double dx = d * ((double)v - (double)r.mean[c]);
                sum_d[c] += d;
                sum_dx[c] += dx;
                size[c] += fabs(d);
                size_dx[c] += fabs(dx);
            }
        }
        dd_bn_reduce half = r;
        half.sum_d = kernel_twin(k, r.sum_d);
        half.sum_dx = kernel_twin(k, r.sum_dx);
        half.x = x_halves;
        half.x_bf16 = true;
        if (i % 2) {
            half.dz = dz_halves;
            half.dz_bf16 = true;
        }
        k->fast->bn_reduce_f32(&r);
        k->fast->bn_reduce_f32(&half);
        kernel_same(k, "sum_d of bfloat16", half.sum_d, r.sum_d);
        kernel_same(k, "sum_dx of bfloat16", half.sum_dx, r.sum_dx);
        for (int c = 0; c < s.c; c++) { /* a slope's own error, see kernels_elementwise.h */
            size[c] += 2.0 * (double)pixels;
            size_dx[c] += 4.0 * (double)pixels;
        }
        close_sums(k, "sum_d", r.sum_d, sum_d, size, s.c, 4);
        close_sums(k, "sum_dx", r.sum_dx, sum_dx, size_dx, s.c, 4);
        good = kernel_end(k);
    }
    bench_norm(k, 2);
}

void check_bn_dx_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 200 && good; i++) {
        const norm_shape s = draw_norm(k);
        const int64_t pixels = s.rows * s.width;
        float *x = kernel_matrix(k, pixels, s.c, s.pitch);
        const float *x_halves = as_bf16(k, x, pixels, s.c, s.pitch);
        dd_bn_dx b = {.dz_pitch = s.c + kernel_draw(k, 0, 6),
                      .x = x,
                      .pitch = s.pitch,
                      .dx_pitch = s.c + kernel_draw(k, 0, 6),
                      .pixels = pixels,
                      .c = s.c,
                      .scale = kernel_floats(k, s.c),
                      .shift = kernel_floats(k, s.c),
                      .p = kernel_floats(k, s.c),
                      .q = kernel_floats(k, s.c),
                      .r = kernel_floats(k, s.c),
                      .act = plain_act(kernel_draw(k, 0, DD_EXP))};
        float *dz = kernel_matrix(k, pixels, s.c, b.dz_pitch);
        const float *dz_halves = as_bf16(k, dz, pixels, s.c, b.dz_pitch);
        float *dx = kernel_matrix(k, pixels, s.c, b.dx_pitch), *ref = kernel_twin(k, dx);
        float *want = kernel_twin(k, dx);
        for (int64_t p = 0; p < pixels; p++)
            for (int c = 0; c < s.c; c++) {
                const float v = b.x[p * s.pitch + c];
                const double d =
                    plain_through(b.act, dz[p * b.dz_pitch + c], v, b.scale[c], b.shift[c]);
                want[p * b.dx_pitch + c] =
                    (float)(d * (double)b.p[c] + (double)v * (double)b.q[c] + (double)b.r[c]);
            }
        b.dz = dz;
        b.dx = dx;
        k->fast->bn_dx_f32(&b);
        b.dx = ref;
        k->ref->bn_dx_f32(&b);
        kernel_same(k, "dx against ref", dx, ref);
        kernel_close(k, "dx", dx, want, pixels, s.c, b.dx_pitch, 1e-6, 1e-6);
        dd_bn_dx half = b;
        half.dx = ref;
        half.dz_bf16 = i % 3 != 0;
        half.x_bf16 = i % 3 != 1;
        half.dz = half.dz_bf16 ? dz_halves : dz;
        half.x = half.x_bf16 ? x_halves : x;
        k->fast->bn_dx_f32(&half);
        kernel_same(k, "dx of bfloat16", ref, dx);
        const int64_t dx_pitch = b.dx_pitch;
        b.dx = dz; /* in place */
        b.dx_pitch = b.dz_pitch;
        k->fast->bn_dx_f32(&b);
        for (int64_t p = 0; p < pixels; p++)
            kernel_close(k, "in place", dz + p * b.dz_pitch, dx + p * dx_pitch, 1, s.c, s.c, 0.0,
                         0.0);
        good = kernel_end(k);
    }
    bench_norm(k, 3);
}

#endif
