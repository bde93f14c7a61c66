/* Inside an expansion (step_expand.c): what its parts call of each other. */
#ifndef DD_GRAPH_EXPAND_H
#define DD_GRAPH_EXPAND_H

#include "graph/steps.h"

/* Floats between pixels of the narrow map in scratch: a one stands behind the channels. */
static inline int64_t dd_expand_pitch(const dd_conv *c) {
    return (c->c_in + 8) / 8 * 8;
}

/* Parts that a pass over the narrow map is cut into. */
static inline int64_t dd_expand_slots(const dd_conv *c) {
    return c->n * c->h < DD_SLOTS ? c->n * c->h : DD_SLOTS;
}

/* Doubles of a slot's moments: Σ x·xᵀ, then Σ x. */
static inline size_t dd_expand_moment_count(const dd_conv *c) {
    return (size_t)(c->c_in + 1) * (size_t)c->c_in;
}

/* ---- expand_sums.c ------------------------------------------------------------------------- */

/* A slot's moments, and the floats of scratch that they and what follows take. */
void dd_expand_moments(const dd_run *run, const dd_step *s, int64_t unit, float *scratch);
size_t dd_expand_moments_floats(const dd_conv *c);
/* Σ over slots, into the first: the covariance about the true mean, row C the mean itself. */
void dd_expand_finish_moments(const dd_run *run, const dd_step *s, float *scratch);
/* The norm's statistics, and the weights with its scale, packed for both directions. */
void dd_expand_fold(const dd_run *run, const dd_step *s, void *room);
/* All gradients of parameters, and what the last pass adds to dx; doubles of scratch. */
void dd_expand_finish(const dd_run *run, const dd_step *s, void *scratch);
size_t dd_expand_finish_doubles(const dd_conv *c);

/* ---- expand_pixels.c (more in steps.h) ----------------------------------------------------- */

/* Sets the ones behind the channels. */
void dd_expand_set_ones(const dd_conv *c, float *narrow, int64_t pixels);
/* The narrow map's pixels from (n, y, x) on plus `shift`. */
void dd_expand_load_narrow(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                           int64_t pixels, const float *shift, float *to);
/* dx += x·mix + mix_shift, with the sums for the batch norm before it; at most so many pixels. */
void dd_expand_mix(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                   int64_t pixels, int64_t unit, float *scratch);
int64_t dd_expand_mix_piece(const dd_conv *c);

#endif
