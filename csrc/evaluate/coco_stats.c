/* COCO's parameters and its twelve figures. A mean of thousands of doubles depends on the order of
 * its additions, and pycocotools takes NumPy's mean; so NumPy's order is repeated here. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/coco.h"

/* numpy.linspace(start, stop, n) bit by bit: i · step + start, the end as given. */
static void linspace(double start, double stop, int n, double *out) {
    double step = (stop - start) / (n - 1);
    for (int i = 0; i < n; i++)
        out[i] = i * step + start;
    out[n - 1] = stop;
}

dd_coco_params dd_coco_params_default(dd_coco_defaults *s) {
    static const double area[8] = {0, 1e10, 0, 1024, 1024, 9216, 9216, 1e10};
    linspace(.5, .95, 10, s->iou);
    linspace(0, 1, 101, s->recall);
    memcpy(s->area, area, sizeof area);
    s->max_det[0] = 1, s->max_det[1] = 10, s->max_det[2] = 100;
    return (dd_coco_params){10, 101, 4, 3, s->iou, s->recall, s->area, s->max_det, true};
}

/* NumPy's pairwise summation: eight running sums over up to 128 values, halves beyond. */
double dd_pairwise_sum(const double *x, size_t n) {
    if (n < 8) {
        double sum = -0.0; /* as NumPy starts; adding keeps the sign of an all -0 list */
        for (size_t i = 0; i < n; i++)
            sum += x[i];
        return sum;
    }
    if (n > 128) { /* depth is log2(n / 128) */
        size_t half = n / 2 - n / 2 % 8;
        return dd_pairwise_sum(x, half) + dd_pairwise_sum(x + half, n - half);
    }
    double r[8];
    memcpy(r, x, sizeof r);
    size_t i = 8;
    for (; i < n - n % 8; i += 8)
        for (int k = 0; k < 8; k++)
            r[k] += x[i + k];
    double sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    for (; i < n; i++)
        sum += x[i];
    return sum;
}

/* Mean of those of the n values that are above -1; -1 if there are none. Moves them to the front.
 */
static double mean_of_valid(double *values, size_t n) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (values[i] > -1)
            values[kept++] = values[i];
    return kept ? (0.0 + dd_pairwise_sum(values, kept)) / (double)kept : -1;
}

/* One figure: over the thresholds [t, t_end), all recalls (R, or 1 for `recall`) and classes, at
 * area a and max_det m; -1 stands for one that does not exist. */
typedef struct selection {
    int64_t t, t_end, a, m;
} selection;

static double figure(const dd_coco_params *p, int64_t K, const double *array, int64_t R,
                     selection s, double *values) {
    size_t n = 0;
    if (s.a < 0 || s.m < 0)
        return -1;
    for (int64_t i = s.t * R * K; i < s.t_end * R * K; i++)
        values[n++] = array[(i * p->n_area + s.a) * p->n_max_det + s.m];
    return mean_of_valid(values, n);
}

/* The threshold that equals `value`, as a range; empty if there is none. */
static selection at_threshold(const dd_coco_params *p, double value, selection s) {
    s.t = s.t_end = 0;
    for (int64_t t = 0; t < p->n_iou && s.t_end == 0; t++)
        if (p->iou[t] == value)
            s.t = t, s.t_end = t + 1;
    return s;
}

/* One buffer serves all twelve selections. */
dd_status dd_coco_stats(const dd_coco_params *p, int64_t n_classes, const int areas[4],
                        const double *precision, const double *recall, double stats[12]) {
    dd_status status = DD_OK;
    double *values = NULL;
    int64_t K = p->use_classes ? n_classes : 1, R = p->n_recall;
    size_t count = 0;
    DD_TRY_DONE(dd_size_mul((size_t)(p->n_iou * R), (size_t)K, "coco_stats", &count));
    DD_TRY_DONE(dd_alloc_array(count, sizeof *values, &values));
    int64_t last = p->n_max_det < 3 ? p->n_max_det - 1 : 2, hundred = -1;
    for (int64_t m = p->n_max_det; m-- > 0;)
        hundred = p->max_det[m] == 100 ? m : hundred;
    selection all = {0, p->n_iou, areas[0], last}, ap = {0, p->n_iou, areas[0], hundred};
    stats[0] = figure(p, K, precision, R, ap, values);
    stats[1] = figure(p, K, precision, R, at_threshold(p, .5, all), values);
    stats[2] = figure(p, K, precision, R, at_threshold(p, .75, all), values);
    for (int i = 0; i < 3; i++) { /* small, medium, large; AR at the three max_det */
        selection sized = {0, p->n_iou, areas[i + 1], last};
        selection cut = {0, p->n_iou, areas[0], i < last ? i : last};
        stats[3 + i] = figure(p, K, precision, R, sized, values);
        stats[6 + i] = figure(p, K, recall, 1, cut, values);
        stats[9 + i] = figure(p, K, recall, 1, sized, values);
    }
done:
    dd_free(values);
    return status;
}
