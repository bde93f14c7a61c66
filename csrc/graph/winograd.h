/* What the Winograd steps share: step_winograd.c (a convolution, the gradient of its input) and
 * step_winograd_weights.c (that of its weights). */
#ifndef DD_GRAPH_WINOGRAD_H
#define DD_GRAPH_WINOGRAD_H

#include "graph/steps.h"

enum { DD_WINOGRAD_PLANES = 36 }; /* at most */

static inline int64_t dd_winograd_tiles_x(const dd_conv *c) {
    return (c->ow + c->winograd - 1) / c->winograd;
}
static inline int64_t dd_winograd_tiles_y(const dd_conv *c) {
    return (c->oh + c->winograd - 1) / c->winograd;
}
static inline int dd_winograd_planes(const dd_conv *c) {
    return (c->winograd + 2) * (c->winograd + 2);
}

/* Whether the products saved are worth the transforms; the side of the tiles. */
bool dd_winograd_pays(const dd_conv *c);
int dd_winograd_side(const dd_conv *c);
/* A record of a Winograd step's own. It may move plan->convs. */
dd_status dd_winograd_record(dd_plan *plan, dd_conv c, int *conv);
/* What number `tap` of a 3×3 kernel counts in number `plane` of its transform. */
float dd_winograd_factor(const dd_conv *c, int plane, int tap);

/* A round: rows [begin, end) of tiles, all images' counted through, and its planes: v with c_in
 * channels, m with c_out, from plan->slots + s->planes on. */
typedef struct dd_winograd_round {
    int64_t begin, end, tiles;
    float *v, *m;
    int64_t v_plane, m_plane;
} dd_winograd_round;
dd_winograd_round dd_winograd_round_of(const dd_plan *plan, const dd_step *s, int64_t index,
                                       int64_t rounds);

/* `rows` rows of `width` pixels from (y, x) on, which may lie outside the map: zeros there. */
void dd_winograd_load(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t rows,
                      int64_t width, float *out);
/* The transformed patches of `count` tiles of one row, to r->v. */
void dd_winograd_patches(const dd_run *run, int value, const dd_conv *c, const dd_winograd_round *r,
                         int64_t tile, int64_t count, float *scratch);

/* Starts a step at a conv_dw where it pays. */
dd_status dd_winograd_weights_match(dd_plan *plan, int node, bool *matched);

#endif
