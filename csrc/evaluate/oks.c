/* The distances; operation by operation what pycocotools' computeOks does with arrays. */
#include "evaluate/oks.h"

#include <math.h>

#define EPS 2.220446049250313e-16 /* numpy.spacing(1) */

size_t dd_oks_exponents(const dd_oks *oks, int64_t object, int64_t detection, const double box[4],
                        double area, double *out) {
    size_t k = (size_t)oks->n_points, n = 0, visible = 0;
    const double *g = oks->object + 3 * k * (size_t)object;
    const double *d = oks->detection + 3 * k * (size_t)detection;
    for (size_t i = 0; i < k; i++)
        visible += g[3 * i + 2] > 0;
    /* Without a visible point any detection within twice the box is as good as any other. */
    double x0 = box[0] - box[2], x1 = box[0] + box[2] * 2;
    double y0 = box[1] - box[3], y1 = box[1] + box[3] * 2;
    for (size_t i = 0; i < k; i++) {
        double x = d[3 * i], y = d[3 * i + 1], dx, dy;
        if (visible) {
            if (!(g[3 * i + 2] > 0))
                continue;
            dx = x - g[3 * i];
            dy = y - g[3 * i + 1];
        } else {
            dx = fmax(0, x0 - x) + fmax(0, x - x1);
            dy = fmax(0, y0 - y) + fmax(0, y - y1);
        }
        out[n++] = -((dx * dx + dy * dy) / oks->variances[i] / (area + EPS) / 2);
    }
    return n;
}
