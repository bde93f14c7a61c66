/* Shapes: a is (n, 4), b is (m, 4), the matrix (n, m). All arithmetic is float32 apart from GIoU,
 * whose gradient is a difference of nearly equal terms when boxes almost coincide. */
#include "detect/boxes.h"

#include <math.h>
#include <stddef.h>

#include "base/threads.h"

bool dd_box_valid(const float *b) {
    /* A difference of finite numbers may overflow to infinity, which no area survives. */
    float w = b[2] - b[0], h = b[3] - b[1];
    return isfinite(b[0]) && isfinite(b[1]) && isfinite(w) && isfinite(h) && w > 0 && h > 0;
}

typedef struct iou_job {
    const float *a, *b;
    int64_t n, m;
    float *out;     /* (n, m), or NULL for the best of each row */
    float *best;    /* (n) or NULL */
    int32_t *index; /* (n) or NULL */
} iou_job;

/* Both loops below leave rows to threads and never split one: a row's result is then the same
 * whatever the number of threads. Rows of one unit: enough work to be worth handing out, whatever m
 * is. */
enum { ROWS = 16 };

static void matrix_rows(void *context, int64_t unit, int thread) {
    const iou_job *job = context;
    (void)thread;
    int64_t end = (unit + 1) * ROWS < job->n ? (unit + 1) * ROWS : job->n;
    for (int64_t i = unit * ROWS; i < end; i++)
        for (int64_t j = 0; j < job->m; j++)
            job->out[i * job->m + j] = dd_box_iou(job->a + 4 * i, job->b + 4 * j);
}

void dd_box_iou_matrix(const float *a, int64_t n, const float *b, int64_t m, float *out) {
    iou_job job = {.a = a, .b = b, .n = n, .m = m, .out = out};
    dd_parallel((n + ROWS - 1) / ROWS, matrix_rows, &job);
}

static void best_rows(void *context, int64_t unit, int thread) {
    const iou_job *job = context;
    (void)thread;
    int64_t end = (unit + 1) * ROWS < job->n ? (unit + 1) * ROWS : job->n;
    for (int64_t i = unit * ROWS; i < end; i++) {
        float best = 0;
        int64_t where = -1;
        for (int64_t j = 0; j < job->m; j++) {
            float iou = dd_box_iou(job->a + 4 * i, job->b + 4 * j);
            if (iou > best) {
                best = iou;
                where = j;
            }
        }
        if (job->best)
            job->best[i] = best;
        if (job->index)
            job->index[i] = (int32_t)where;
    }
}

void dd_box_best(const float *boxes, int64_t n, const float *others, int64_t m, float *iou,
                 int32_t *index) {
    iou_job job = {.a = boxes, .b = others, .n = n, .m = m, .best = iou, .index = index};
    dd_parallel((n + ROWS - 1) / ROWS, best_rows, &job);
}

/* The share of the derivative of min(x, y) (or of max(y, x)) that goes to x: all of it where x is
 * the one chosen, half at a tie. */
static double share(double chosen_if_less, double other) {
    return chosen_if_less < other ? 1.0 : chosen_if_less == other ? 0.5 : 0.0;
}

/* An area below this is none: a float's pixel cannot make it, and its inverse square overflows. */
static const double EMPTY = 1e-100;

/* The intersection I, the union U = A + B - I and the hull C are products of differences of edges;
 * each edge of `a` enters through min or max, which pick it or not (`share`). */
double dd_box_giou(const double a[4], const double b[4], double grad[4]) {
    double wa = a[2] - a[0], ha = a[3] - a[1], wb = b[2] - b[0], hb = b[3] - b[1];
    double area_a = wa > 0 && ha > 0 ? wa * ha : 0, area_b = wb > 0 && hb > 0 ? wb * hb : 0;
    double iw = fmin(a[2], b[2]) - fmax(a[0], b[0]), ih = fmin(a[3], b[3]) - fmax(a[1], b[1]);
    bool meet = iw > 0 && ih > 0;
    double inter = meet ? iw * ih : 0, uni = area_a + area_b - inter;
    double cw = fmax(a[2], b[2]) - fmin(a[0], b[0]), ch = fmax(a[3], b[3]) - fmin(a[1], b[1]);
    double hull = cw * ch;
    bool has_union = uni > EMPTY, has_hull = cw > 0 && ch > 0 && hull > EMPTY;
    /* fmin and fmax drop a NaN; the sum of the edges brings it back into the value. */
    double poison = (a[0] + a[1] + a[2] + a[3] + b[0] + b[1] + b[2] + b[3]) * 0.0;
    double giou = (has_union ? inter / uni : 0) - (has_hull ? (hull - uni) / hull : 0) + poison;
    if (!grad)
        return giou;
    /* d giou = dI/U - I dU/U^2 + dU/C - U dC/C^2 with dU = dA - dI. */
    double by_inter = has_union ? 1 / uni : 0, by_union = 0, by_hull = 0;
    if (has_union)
        by_union -= inter / uni / uni;
    if (has_hull) {
        by_union += 1 / hull;
        by_hull = -uni / hull / hull;
    }
    for (int k = 0; k < 4; k++) {
        /* Lower edges push with a minus sign, x edges trade against heights and y edges against
         * widths. The inner edge of a pair belongs to the intersection, the outer to the hull. */
        int high = k >= 2, vertical = k & 1;
        double sign = high ? 1 : -1, x = sign * a[k], y = sign * b[k];
        double d_area = wa >= 0 && ha >= 0 ? sign * (vertical ? wa : ha) : 0;
        double d_inter = meet ? sign * (vertical ? iw : ih) * share(x, y) : 0;
        double d_hull = sign * (vertical ? cw : ch) * share(-x, -y);
        grad[k] = by_inter * d_inter + by_union * (d_area - d_inter) + by_hull * d_hull + poison;
    }
    return giou;
}
