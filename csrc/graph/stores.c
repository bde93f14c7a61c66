/* The store stage: pieces of a value on their way to memory.
 *
 * A map that no cache can hold until it is read again is computed in scratch and copied past the
 * caches: a plain store would read every line first, and push out what is of use. */
#include "graph/steps.h"

#include <string.h>

/* Bytes of a map from which on it goes past the caches. */
enum { STREAM_BYTES = 8 << 20 };

bool dd_is_streamed(const dd_plan *plan, int value) {
    const dd_pvalue *v = &plan->values[value];
    return plan->graph->training && v->root == value && v->pending == DD_STORED &&
           v->type.rank == 4 && v->type.dims[0] * v->image >= STREAM_BYTES / (int)sizeof(float);
}

int64_t dd_piece_floats(const dd_plan *plan, int value, int64_t pixels) {
    return dd_is_streamed(plan, value) ? (pixels * plan->values[value].pitch + 15) / 16 * 16 : 0;
}

float *dd_piece_begin(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, float *scratch,
                      int64_t *pitch) {
    *pitch = run->plan->values[value].pitch;
    if (dd_is_streamed(run->plan, value))
        return scratch;
    return dd_row(run, value, n, y) + x * *pitch;
}

void dd_piece_end(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t pixels,
                  const float *piece) {
    int64_t pitch = run->plan->values[value].pitch;
    float *to = dd_row(run, value, n, y) + x * pitch;
    if (piece != to) /* pad lanes of a buffer of its own may hold anything */
        run->plan->kernels->stream_f32(piece, to, pixels * pitch);
}

void dd_pieces_done(const dd_run *run, int value) {
    if (value >= 0 && dd_is_streamed(run->plan, value))
        run->plan->kernels->stream_f32(NULL, NULL, 0);
}
