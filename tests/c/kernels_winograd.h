/* Checks of winograd.c: its transforms have the bits of the scalar level, and together with plain
 * products they give a 3×3 convolution and its gradients, to the errors that winograd.c states. */
#ifndef DD_TESTS_KERNELS_WINOGRAD_H
#define DD_TESTS_KERNELS_WINOGRAD_H

#include <math.h>
#include <string.h>

#include "check_kernels.h"

enum { WINOGRAD_PLANES = 36 };

/* One dimension of the kernel's transform: three numbers at `step` to alpha. */
static void winograd_kernel_line(const double *g, int step, int side, double *out) {
    const double a = g[0], b = g[step], c = g[2 * step];
    if (side == 2) {
        out[0] = a;
        out[1] = (a + b + c) / 2;
        out[2] = (a - b + c) / 2;
        out[3] = c;
        return;
    }
    out[0] = a / 4;
    out[1] = -(a + b + c) / 6;
    out[2] = -(a - b + c) / 6;
    out[3] = (a + 2 * b + 4 * c) / 24;
    out[4] = (a - 2 * b + 4 * c) / 24;
    out[5] = c;
}

static void winograd_kernel(const float *kernel, int side, float *out) {
    double g[9], rows[3][6];
    for (int i = 0; i < 9; i++)
        g[i] = (double)kernel[i];
    for (int r = 0; r < 3; r++)
        winograd_kernel_line(g + 3 * r, 1, side, rows[r]);
    for (int j = 0; j < side + 2; j++) {
        double column[6];
        winograd_kernel_line(&rows[0][j], 6, side, column);
        for (int i = 0; i < side + 2; i++)
            out[i * (side + 2) + j] = (float)column[i];
    }
}

void check_winograd_input_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 200 && good; i++) {
        dd_winograd_input w = {.side = kernel_draw(k, 0, 1) ? 4 : 2};
        const int alpha = w.side + 2;
        w.tiles = kernel_draw(k, 1, 5);
        w.c = (int)kernel_draw(k, 1, 70);
        w.pitch = w.c + kernel_draw(k, 0, 5);
        const int64_t width = w.tiles * w.side + 2;
        w.row_pitch = (width + kernel_draw(k, 0, 3)) * w.pitch;
        w.v_pitch = w.c + kernel_draw(k, 0, 5);
        w.plane = w.tiles * w.v_pitch;
        kernel_begin(k, "side=%d tiles=%lld c=%d", w.side, (long long)w.tiles, w.c);
        w.x = kernel_matrix(k, (alpha - 1) * (w.row_pitch / w.pitch) + width, w.c, w.pitch);
        float *v = kernel_matrix(k, alpha * alpha * w.tiles, w.c, w.v_pitch);
        float *ref = kernel_twin(k, v);
        w.v = v;
        k->fast->winograd_input_f32(&w);
        w.v = ref;
        k->ref->winograd_input_f32(&w);
        kernel_same(k, "v against ref", v, ref);
        good = kernel_end(k);
    }
    for (int side = 2; k->bench && side <= 4; side += 2) {
        kernel_begin(k, "bench");
        dd_winograd_input w = {
            .side = side, .pitch = 80, .tiles = 5, .c = 80, .v_pitch = 80, .plane = 5 * 80 + 16};
        w.row_pitch = (5 * side + 2) * 80;
        w.x = kernel_aligned(k, 6 * w.row_pitch);
        w.v = kernel_aligned(k, 36 * w.plane);
        KERNEL_BENCH(k, side == 2 ? "side 2, c=80" : "side 4, c=80", 5.0 * side * side * 80.0,
                     "Gpixel/s", k->fast->winograd_input_f32(&w));
        kernel_end(k);
    }
}

/* The gradient of one kernel from one row of tiles, against double precision; and the bits. */
static void winograd_gradient_case(kernel_check *k, int side) {
    const int alpha = side + 2, c = (int)kernel_draw(k, 1, 40);
    const int64_t tiles = kernel_draw(k, 1, 6), width = tiles * side;
    dd_winograd_input in = {.side = side, .pitch = c, .row_pitch = (width + 2) * c, .tiles = tiles};
    in.c = c;
    in.x = kernel_floats(k, alpha * in.row_pitch);
    in.v_pitch = c + kernel_draw(k, 0, 5);
    in.plane = tiles * in.v_pitch;
    in.v = kernel_matrix(k, alpha * alpha * tiles, c, in.v_pitch);
    dd_winograd_input d = in;
    d.row_pitch = width * c;
    d.x = kernel_floats(k, side * d.row_pitch);
    float *u = kernel_matrix(k, alpha * alpha * tiles, c, in.v_pitch), *ref = kernel_twin(k, u);
    k->fast->winograd_input_f32(&in);
    d.v = ref;
    k->ref->winograd_gradient_f32(&d);
    d.v = u;
    k->fast->winograd_gradient_f32(&d);
    kernel_same(k, "u against ref", u, ref);
    float *got = kernel_floats(k, 9 * c), *want = kernel_twin(k, got);
    for (int ch = 0; ch < c; ch++)
        for (int tap = 0; tap < 9; tap++) {
            double sum = 0, direct = 0;
            float unit[9] = {0}, planes[WINOGRAD_PLANES];
            unit[tap] = 1;
            winograd_kernel(unit, side, planes); /* row `tap` of the transpose */
            for (int p = 0; p < alpha * alpha; p++)
                for (int64_t t = 0; t < tiles; t++)
                    sum += (double)planes[p] * (double)in.v[p * in.plane + t * in.v_pitch + ch] *
                           (double)u[p * in.plane + t * in.v_pitch + ch];
            for (int y = 0; y < side; y++)
                for (int64_t x = 0; x < width; x++)
                    direct += (double)d.x[y * d.row_pitch + x * c + ch] *
                              (double)in.x[(y + tap / 3) * in.row_pitch + (x + tap % 3) * c + ch];
            got[tap * c + ch] = (float)sum;
            want[tap * c + ch] = (float)direct;
        }
    kernel_close(k, "dw", got, want, 9, c, c,
                 (side == 2 ? 3e-6 : 3e-5) * sqrt((double)(side * width)), 0.0);
}

void check_winograd_gradient_f32(kernel_check *k) {
    for (int i = 0; i < 150; i++) {
        const int side = kernel_draw(k, 0, 1) ? 4 : 2;
        kernel_begin(k, "side=%d", side);
        winograd_gradient_case(k, side);
        if (!kernel_end(k))
            return;
    }
    for (int side = 2; k->bench && side <= 4; side += 2) {
        kernel_begin(k, "bench");
        dd_winograd_input w = {.side = side,
                               .pitch = 80,
                               .row_pitch = 5 * side * 80,
                               .tiles = 5,
                               .c = 80,
                               .v_pitch = 80,
                               .plane = 5 * 80 + 16};
        w.x = kernel_aligned(k, 4 * w.row_pitch);
        w.v = kernel_aligned(k, 36 * w.plane);
        KERNEL_BENCH(k, side == 2 ? "side 2, c=80" : "side 4, c=80", 5.0 * side * side * 80.0,
                     "Gpixel/s", k->fast->winograd_gradient_f32(&w));
        kernel_end(k);
    }
}

/* A convolution of one row of tiles by the kernels under test, against double precision. */
static void winograd_case(kernel_check *k, int side, dd_act act, bool residual) {
    const int alpha = side + 2, c = (int)kernel_draw(k, 1, 20), o = (int)kernel_draw(k, 1, 40);
    const int64_t tiles = kernel_draw(k, 1, 4), width = tiles * side + 2;
    dd_winograd_input in = {.side = side, .pitch = c, .row_pitch = width * c, .tiles = tiles};
    in.c = c;
    in.x = kernel_floats(k, alpha * width * c);
    in.v_pitch = c;
    in.plane = tiles * c;
    in.v = kernel_floats(k, alpha * alpha * in.plane);
    k->fast->winograd_input_f32(&in);
    float *kernels = kernel_floats(k, (int64_t)o * c * 9);
    float *m = kernel_floats(k, alpha * alpha * tiles * o);
    memset(m, 0, (size_t)(alpha * alpha * tiles * o) * sizeof *m);
    for (int j = 0; j < o; j++)
        for (int i = 0; i < c; i++) {
            float planes[WINOGRAD_PLANES];
            winograd_kernel(kernels + (j * c + i) * 9, side, planes);
            for (int p = 0; p < alpha * alpha; p++)
                for (int64_t t = 0; t < tiles; t++)
                    m[(p * tiles + t) * o + j] += planes[p] * in.v[p * in.plane + t * c + i];
        }
    dd_winograd_output out = {.side = side, .m = m, .m_pitch = o, .plane = tiles * o};
    out.tiles = tiles;
    out.c = o;
    out.act = act;
    out.rows = (int)kernel_draw(k, 1, side);
    out.width = kernel_draw(k, (tiles - 1) * side + 1, tiles * side);
    out.y_pitch = o + kernel_draw(k, 0, 3);
    out.y_row = out.width * out.y_pitch;
    out.bias = kernel_draw(k, 0, 1) ? kernel_floats(k, o) : NULL;
    out.residual_pitch = o;
    out.residual_row = out.width * o;
    out.residual = residual ? kernel_floats(k, out.rows * out.residual_row) : NULL;
    float *y = kernel_matrix(k, out.rows * out.width, o, out.y_pitch), *ref = kernel_twin(k, y);
    float *want = kernel_twin(k, y);
    for (int64_t p = 0; p < out.rows * out.width; p++)
        for (int j = 0; j < o; j++) {
            const int64_t at = p / out.width * width + p % out.width;
            double sum = out.bias ? (double)out.bias[j] : 0;
            for (int i = 0; i < c; i++)
                for (int tap = 0; tap < 9; tap++)
                    sum += (double)kernels[(j * c + i) * 9 + tap] *
                           (double)in.x[(at + tap / 3 * width + tap % 3) * c + i];
            sum += residual ? (double)out.residual[p * o + j] : 0;
            want[p * out.y_pitch + j] = (float)sum;
        }
    for (int64_t p = 0; act.kind != DD_IDENTITY && p < out.rows * out.width; p++)
        k->ref->unary_f32(act, want + p * out.y_pitch, want + p * out.y_pitch, o);
    out.y = y;
    k->fast->winograd_output_f32(&out);
    out.y = ref;
    k->ref->winograd_output_f32(&out);
    kernel_same(k, "y against ref", y, ref);
    /* Inputs and weights in [-1, 1): a sum of 9·c products has a deviation of √c. */
    const double deviation = sqrt((double)c);
    kernel_close(k, "y", y, want, out.rows * out.width, o, out.y_pitch,
                 (side == 2 ? 3e-6 : 3e-5) * deviation, 0.0);
}

void check_winograd_output_f32(kernel_check *k) {
    static const dd_act acts[] = {{DD_IDENTITY, 0, 0},
                                  {DD_RELU, 0, 0},
                                  {DD_HARD_SWISH, 0, 0},
                                  {DD_SILU, 0, 0},
                                  {DD_CLIP, -1, 1}};
    bool good = true;
    for (int i = 0; i < 200 && good; i++) {
        const int side = kernel_draw(k, 0, 1) ? 4 : 2;
        const dd_act act = acts[kernel_draw(k, 0, 4)];
        const bool residual = kernel_draw(k, 0, 1) != 0;
        kernel_begin(k, "side=%d act=%d residual=%d", side, (int)act.kind, residual);
        winograd_case(k, side, act, residual);
        good = kernel_end(k);
    }
    for (int side = 2; k->bench && side <= 4; side += 2) {
        kernel_begin(k, "bench");
        dd_winograd_output w = {.side = side, .m_pitch = 80, .tiles = 5, .c = 80, .y_pitch = 80};
        w.plane = 5 * 80 + 16;
        w.y_row = 5 * side * 80;
        w.act = (dd_act){DD_RELU, 0, 0};
        w.width = 5 * side;
        w.rows = side;
        w.m = kernel_aligned(k, 36 * w.plane);
        w.y = kernel_aligned(k, side * w.y_row);
        KERNEL_BENCH(k, side == 2 ? "side 2, c=80" : "side 4, c=80", 5.0 * side * side * 80.0,
                     "Gpixel/s", k->fast->winograd_output_f32(&w));
        kernel_end(k);
    }
}

#endif
