/* A dense convolution row by row, for the steps that go on with its rows at once: a stem before its
 * max pool or its first depthwise convolution, whose map is the largest of a net and never leaves
 * the cache that way.
 *
 * The rows that the taps meet are a ring in scratch, each loaded once. Arithmetic is that of the
 * convolution step, to the last bit. */
#include "graph/steps.h"

enum { FEW_CHANNELS = 8, MAX_SEGMENTS = 64 };

/* The padded row ends where the last tap of the last pixel does, or the map. */
static int64_t padded_width(const dd_conv *c) {
    int64_t reach = (c->ow - 1) * c->stride + c->k_w, least = c->pad_left + c->w;
    return reach > least ? reach : least;
}

bool dd_conv_has_rows(const dd_conv *c) {
    return !c->depthwise && !c->by_tap && c->c_in <= FEW_CHANNELS &&
           c->k_h * c->c_in <= MAX_SEGMENTS;
}

int64_t dd_conv_rows_floats(const dd_conv *c) {
    return (c->k_h * padded_width(c) * c->c_in + 15) / 16 * 16;
}

/* Source row `row`, counted from the padding on. */
static void load_row(const dd_conv_rows *r, int64_t row) {
    const dd_conv *c = r->c;
    int64_t width = padded_width(c), right = width - c->pad_left - c->w;
    float *slot = r->ring + row % c->k_h * width * c->c_in;
    (c->planar ? dd_load_planes : dd_load_strip)(r->run, r->x, r->n, row - c->pad_top, 1,
                                                 c->pad_left, right, slot);
}

void dd_conv_rows_make(dd_conv_rows *r, int64_t y, float *to, int64_t ldc) {
    const dd_conv *c = r->c;
    int64_t width = padded_width(c), first = y * c->stride;
    int planes = c->planar ? c->c_in : 1;
    const float *a[MAX_SEGMENTS];
    for (r->made = r->made > first ? r->made : first; r->made < first + c->k_h; r->made++)
        load_row(r, r->made);
    for (int t = 0; t < c->k_h * planes; t++)
        a[t] = r->ring + (first + t / planes) % c->k_h * width * c->c_in + t % planes * width;
    r->run->plan->kernels->gemm_f32(&(dd_gemm){.a = a,
                                               .lda = c->stride * (c->c_in / planes),
                                               .segments = c->k_h * planes,
                                               .k = c->k_w * (c->c_in / planes),
                                               .b = r->run->plan->packed + c->packed,
                                               .c = to,
                                               .ldc = ldc,
                                               .m = c->ow,
                                               .n = c->c_out,
                                               .bias = dd_conv_bias(r->run, c),
                                               .act = r->act,
                                               .n_end = c->c_out});
}
