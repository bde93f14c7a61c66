/* See fold.h. Weights are (O, I/G, kh, kw), or transposed (I, O/G, kh, kw): O outputs, I inputs, G
 * groups. */
#include "graph/fold.h"

#include <string.h>

#include "base/memory.h"

void dd_fold_free(dd_fold *f) {
    dd_free(f->weight);
    dd_free(f->bias);
    f->weight = f->bias = NULL;
}

int64_t dd_fold_weights(const dd_fold *f) {
    return f->o * (f->i / f->groups) * f->kh * f->kw;
}

/* Cleared arrays for the geometry in *f. */
static dd_status make(dd_fold *f) {
    f->weight = f->bias = NULL;
    DD_TRY(dd_alloc_array((size_t)dd_fold_weights(f), sizeof(double), &f->weight));
    dd_status status = dd_alloc_array((size_t)f->o, sizeof(double), &f->bias);
    if (status != DD_OK)
        dd_fold_free(f);
    return status;
}

/* Float32 to double is exact, so nothing is lost before the fold's own arithmetic. */
dd_status dd_fold_fill(dd_fold *f, const float *weight, const float *bias) {
    DD_TRY(make(f));
    for (int64_t k = 0; k < dd_fold_weights(f); k++)
        f->weight[k] = (double)weight[k];
    for (int64_t c = 0; bias && c < f->o; c++)
        f->bias[c] = (double)bias[c];
    return DD_OK;
}

/* A batch norm that could not be folded, or the identity branch of a block: as a depthwise 1×1 it
 * joins sums like any other convolution. */
dd_status dd_fold_diagonal(dd_fold *f, int64_t channels, const double *scale, const double *shift) {
    *f = (dd_fold){.o = channels,
                   .i = channels,
                   .kh = 1,
                   .kw = 1,
                   .groups = channels,
                   .stride = {1, 1},
                   .dilation = {1, 1}};
    DD_TRY(make(f));
    for (int64_t c = 0; c < channels; c++) {
        f->weight[c] = scale ? scale[c] : 1;
        f->bias[c] = shift ? shift[c] : 0;
    }
    return DD_OK;
}

/* For a convolution that several batch norms read: each takes a copy. */
dd_status dd_fold_copy(const dd_fold *from, dd_fold *to) {
    dd_fold f = *from;
    DD_TRY(make(&f));
    memcpy(f.weight, from->weight, (size_t)dd_fold_weights(from) * sizeof(double));
    memcpy(f.bias, from->bias, (size_t)from->o * sizeof(double));
    *to = f;
    return DD_OK;
}

bool dd_fold_is_diagonal(const dd_fold *f) {
    return f->kh == 1 && f->kw == 1 && f->groups == f->i && f->o == f->i;
}

/* Runs of the weight that belong to one output channel: its inputs and taps lie together; in a
 * transposed weight its taps alone, once an input of its group. */
static void scale_weight(dd_fold *f, const double *scale) {
    int64_t taps = f->kh * f->kw, each = f->transposed ? taps : f->i / f->groups * taps;
    int64_t runs = each ? dd_fold_weights(f) / each : 0;
    int64_t o_group = f->o / f->groups, i_group = f->i / f->groups;
    for (int64_t r = 0; r < runs; r++) {
        int64_t c = f->transposed ? r / o_group / i_group * o_group + r % o_group : r;
        for (int64_t k = 0; k < each; k++)
            f->weight[r * each + k] *= scale[c];
    }
}

/* Exact in real numbers, padding included: the affine comes after the sum over taps. */
void dd_fold_affine(dd_fold *f, const double *scale, const double *shift) {
    scale_weight(f, scale);
    for (int64_t c = 0; c < f->o; c++)
        f->bias[c] = f->bias[c] * scale[c] + (shift ? shift[c] : 0);
}

/* One axis: where b's first tap lies in a's kernel (in taps), or -1 where b does not fit. The taps
 * of a stand `d` pixels apart, from -pad on; b's kernel must reach as far beyond the output on both
 * sides as its place in a's says, or the two maps would differ in size. */
static int64_t place(int64_t ka, int64_t pad_a, int64_t end_a, int64_t d, int64_t kb, int64_t pad_b,
                     int64_t end_b, int64_t db) {
    if (kb > 1 && db != d)
        return -1;
    int64_t before = pad_a - pad_b, after = end_a - end_b;
    if (before < 0 || after < 0 || before % d)
        return -1;
    if (before + after != (ka - kb) * d)
        return -1;
    return before / d;
}

/* Both axes of b in a; -1 where it does not fit. */
static int64_t place_y(const dd_fold *a, const dd_fold *b) {
    return place(a->kh, a->pads[0], a->pads[2], a->dilation[0], b->kh, b->pads[0], b->pads[2],
                 b->dilation[0]);
}

static int64_t place_x(const dd_fold *a, const dd_fold *b) {
    return place(a->kw, a->pads[1], a->pads[3], a->dilation[1], b->kw, b->pads[1], b->pads[3],
                 b->dilation[1]);
}

/* Equal strides are needed even for 1×1 kernels: they say which pixels are read. */
bool dd_fold_can_add(const dd_fold *a, const dd_fold *b) {
    if (a->transposed || b->transposed || a->o != b->o || a->i != b->i ||
        a->stride[0] != b->stride[0] || a->stride[1] != b->stride[1])
        return false;
    if (a->groups != b->groups && !dd_fold_is_diagonal(b))
        return false;
    return place_y(a, b) >= 0 && place_x(a, b) >= 0;
}

/* b's taps are added at their place in a's kernel. Trusts dd_fold_can_add(). */
void dd_fold_add(dd_fold *a, const dd_fold *b) {
    int64_t y0 = place_y(a, b), x0 = place_x(a, b);
    int64_t ia = a->i / a->groups, ib = b->i / b->groups;
    for (int64_t o = 0; o < a->o; o++) {
        a->bias[o] += b->bias[o];
        for (int64_t i = 0; i < ib; i++) {
            /* a diagonal's only input is channel o, the (o mod I/G)-th of its group */
            int64_t to = a->groups == b->groups ? i : o % ia;
            for (int64_t y = 0; y < b->kh; y++)
                for (int64_t x = 0; x < b->kw; x++)
                    a->weight[((o * ia + to) * a->kh + y0 + y) * a->kw + x0 + x] +=
                        b->weight[((o * ib + i) * b->kh + y) * b->kw + x];
        }
    }
}
