/* The losses' items, their printed formulas and their test cases; see losses.def.
 *
 * Everything is double. A logit's probability is never formed as 1 - p: with e = exp(-|x|), p and
 * its complement q are e / (1 + e) and 1 / (1 + e) in the order that x's sign says, so both tails
 * keep their precision up to |x| = 745, beyond which they are exactly 0. */
#include "detect/losses.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "detect/boxes.h"

/* p = sigmoid(x), q = 1 - p, ce = softplus(x) - t x. */
typedef struct logit {
    double p, q, ce;
} logit;

static logit logit_of(double x, double t) {
    double e = exp(-fabs(x)), small = e / (1 + e), large = 1 / (1 + e);
    double over = x > 0 ? x : 0; /* NaN falls to 0 here and comes back through t * x and e */
    return (logit){
        .p = x > 0 ? large : small, .q = x > 0 ? small : large, .ce = over - t * x + log1p(e)};
}

/* ---- items: value and gradient ----
 *
 * The gradient is derived by hand and stands beside the value; check_detect holds it against
 * differences of the value at every sample. */

static void loss_bce_item(const double *x, const double *t, const double *params, double *value,
                          double *grad) {
    (void)params;
    logit l = logit_of(*x, *t);
    *value = l.ce;
    *grad = l.p - *t;
}

/* u^g and its derivative by u; both are 0 at u = 0, where the loss multiplies them by p q = 0 (for
 * g < 1 the derivative alone would be infinite and poison the product). */
static double power(double u, double g, double *derivative) {
    if (u == 0) {
        *derivative = 0;
        return g == 0 ? 1 : 0;
    }
    if (g == 2) {
        *derivative = 2 * u;
        return u * u;
    }
    *derivative = g == 0 ? 0 : g * pow(u, g - 1);
    return pow(u, g);
}

/* With u = 1 - p_t = p (1 - t) + q t: du/dx = p q (1 - 2 t), dCE/dx = p - t. */
static void loss_focal_item(const double *x, const double *t, const double *params, double *value,
                            double *grad) {
    logit l = logit_of(*x, *t);
    double alpha = params[0], a = alpha < 0 ? 1 : alpha * *t + (1 - alpha) * (1 - *t), slope;
    double miss = l.p * (1 - *t) + l.q * *t; /* 1 - p_t, without cancellation */
    double factor = power(miss, params[1], &slope);
    *value = a * factor * l.ce;
    *grad = a * (slope * l.p * l.q * (1 - 2 * *t) * l.ce + factor * (l.p - *t));
}

/* The modulating factor follows the distance |t - p| to the quality, on both sides of it. */
static void loss_qfl_item(const double *x, const double *t, const double *params, double *value,
                          double *grad) {
    logit l = logit_of(*x, *t);
    /* p - t for t near 1 is (1 - t) - q: the difference of two small numbers. */
    double d = *t > 0.5 ? (1 - *t) - l.q : l.p - *t, slope;
    double factor = power(fabs(d), params[0], &slope);
    *value = factor * l.ce;
    *grad = (d < 0 ? -slope : slope) * l.p * l.q * l.ce + factor * d;
}

static void loss_giou_item(const double *x, const double *t, const double *params, double *value,
                           double *grad) {
    (void)params;
    *value = 1 - dd_box_giou(x, t, grad);
    for (int k = 0; k < 4; k++)
        grad[k] = -grad[k];
}

static void loss_l2_item(const double *x, const double *t, const double *params, double *value,
                         double *grad) {
    (void)params;
    *value = 0;
    for (int k = 0; k < 4; k++) {
        double d = x[k] - t[k];
        *value += d * d;
        grad[k] = 2 * d;
    }
}

static void loss_smooth_l1_item(const double *x, const double *t, const double *params,
                                double *value, double *grad) {
    double beta = params[0];
    *value = 0;
    for (int k = 0; k < 4; k++) {
        double d = x[k] - t[k], size = fabs(d);
        *value += size < beta ? 0.5 * d * d / beta : size - 0.5 * beta;
        /* The last branch hands a NaN on, and gives 0 where d is 0. */
        grad[k] = size < beta ? d / beta : d > 0 ? 1 : d < 0 ? -1 : d;
    }
}

/* ---- the formulas as printed ----
 *
 * Nothing is shared with the items above, on purpose: a mistake would have to be made twice. */

static double loss_bce_ref(const double *x, const double *t, const double *params) {
    (void)params;
    double p = 1 / (1 + exp(-*x));
    return -*t * log(p) - (1 - *t) * log(1 - p);
}

static double loss_focal_ref(const double *x, const double *t, const double *params) {
    double p = 1 / (1 + exp(-*x)), pt = p * *t + (1 - p) * (1 - *t);
    double a = params[0] < 0 ? 1 : params[0] * *t + (1 - params[0]) * (1 - *t);
    return a * pow(1 - pt, params[1]) * loss_bce_ref(x, t, params);
}

static double loss_qfl_ref(const double *x, const double *t, const double *params) {
    double p = 1 / (1 + exp(-*x));
    return pow(fabs(*t - p), params[0]) * loss_bce_ref(x, t, params);
}

static double loss_giou_ref(const double *x, const double *t, const double *params) {
    (void)params;
    double iw = fmax(0, fmin(x[2], t[2]) - fmax(x[0], t[0]));
    double ih = fmax(0, fmin(x[3], t[3]) - fmax(x[1], t[1]));
    double uni = (x[2] - x[0]) * (x[3] - x[1]) + (t[2] - t[0]) * (t[3] - t[1]) - iw * ih;
    double hull = (fmax(x[2], t[2]) - fmin(x[0], t[0])) * (fmax(x[3], t[3]) - fmin(x[1], t[1]));
    return 1 - (iw * ih / uni - (hull - uni) / hull);
}

static double loss_l2_ref(const double *x, const double *t, const double *params) {
    (void)params;
    return pow(x[0] - t[0], 2) + pow(x[1] - t[1], 2) + pow(x[2] - t[2], 2) + pow(x[3] - t[3], 2);
}

static double loss_smooth_l1_ref(const double *x, const double *t, const double *params) {
    double sum = 0;
    for (int k = 0; k < 4; k++) {
        double d = fabs(x[k] - t[k]);
        sum += d < params[0] ? d * d / (2 * params[0]) : d - params[0] / 2;
    }
    return sum;
}

/* ---- test cases ----
 *
 * Away from kinks (equal edges, |d| = beta), where differences and derivative need not agree. */

static const double LOGITS[] = {-9, -4.595, -2, -0.5, 0, 0.25, 1, 3, 9};
static const double TARGETS[] = {0, 1, 0.3, 0.9};
enum { N_LOGITS = sizeof LOGITS / sizeof *LOGITS, N_TARGETS = sizeof TARGETS / sizeof *TARGETS };

/* The product of logits, targets and `sets` of parameters, `columns` numbers a set. */
static int logit_sample(int i, double *x, double *t, double *params, const double *sets, int n_sets,
                        int columns) {
    if (i >= N_LOGITS * N_TARGETS * n_sets)
        return 0;
    *x = LOGITS[i % N_LOGITS];
    *t = TARGETS[i / N_LOGITS % N_TARGETS];
    for (int k = 0; k < columns; k++)
        params[k] = sets[i / (N_LOGITS * N_TARGETS) * columns + k];
    return 1;
}

static int loss_bce_sample(int i, double *x, double *t, double *params) {
    return logit_sample(i, x, t, params, NULL, 1, 0);
}

static int loss_focal_sample(int i, double *x, double *t, double *params) {
    static const double sets[] = {0.25, 2, 0.5, 1.5, -1, 0, 0.75, 0.5, 0.25, 1};
    return logit_sample(i, x, t, params, sets, 5, 2);
}

static int loss_qfl_sample(int i, double *x, double *t, double *params) {
    static const double sets[] = {2, 1.5, 3};
    return logit_sample(i, x, t, params, sets, 3, 1);
}

/* Pairs of boxes: overlapping, nested, apart along each axis and both, thin, large coordinates. */
static const double BOX_PAIRS[][8] = {
    {10, 20, 50, 60, 20, 10, 70, 55},     {10, 10, 90, 90, 30, 40, 60, 70},
    {30, 40, 60, 70, 10, 10, 90, 90},     {0, 0, 10, 10, 20, 1, 30, 9},
    {0, 0, 10, 10, 1, 20, 9, 30},         {40, 50, 60, 80, 0, 0, 10, 12},
    {0, 0, 100, 0.5, 10, -3, 20, 30},     {4000, 3000, 4010, 3020, 4003, 2990, 4020, 3015},
    {-5, -6, 7, 8, -4.5, -6.5, 7.5, 7.5}, {0.1, 0.2, 0.4, 0.5, 0.15, 0.1, 0.5, 0.45},
};

static int box_sample(int i, double *x, double *t) {
    if (i >= (int)(sizeof BOX_PAIRS / sizeof *BOX_PAIRS))
        return 0;
    memcpy(x, BOX_PAIRS[i], 4 * sizeof *x);
    memcpy(t, BOX_PAIRS[i] + 4, 4 * sizeof *t);
    return 1;
}

static int loss_giou_sample(int i, double *x, double *t, double *params) {
    (void)params;
    return box_sample(i, x, t);
}

static int loss_l2_sample(int i, double *x, double *t, double *params) {
    (void)params;
    return box_sample(i, x, t);
}

static int loss_smooth_l1_sample(int i, double *x, double *t, double *params) {
    params[0] = i % 2 ? 1.3 : 15; /* no difference lies at the kink */
    return box_sample(i, x, t);
}

/* ---- the table and its runner -------------------------------------------------------------- */

#define DD_LOSS(name, width, n_params, params, default0, default1, doc)                            \
    {#name,                                                                                        \
     doc,                                                                                          \
     width,                                                                                        \
     n_params,                                                                                     \
     params,                                                                                       \
     {default0, default1},                                                                         \
     loss_##name##_item,                                                                           \
     loss_##name##_ref,                                                                            \
     loss_##name##_sample},
static const dd_loss TABLE[] = {
#include "detect/losses.def"
};
#undef DD_LOSS
enum { N_LOSSES = sizeof TABLE / sizeof *TABLE };

const dd_loss *dd_loss_table(int *count) {
    *count = N_LOSSES;
    return TABLE;
}

const dd_loss *dd_loss_find(const char *name) {
    char names[128] = "";
    for (int i = 0; i < N_LOSSES; i++) {
        if (!strcmp(TABLE[i].name, name))
            return &TABLE[i];
        if (i)
            strncat(names, ", ", sizeof names - strlen(names) - 1);
        strncat(names, TABLE[i].name, sizeof names - strlen(names) - 1);
    }
    dd_fail(DD_EVALUE, "loss: \"%s\" came, one of %s was needed", name, names);
    return NULL;
}

enum { SLOT = 4096 }; /* items of a unit; a constant, so that sums have one order */

typedef struct loss_job {
    const dd_loss *loss;
    int64_t n;
    const double *x, *t, *params;
    double scale; /* of the gradient: 1, or 1/n for the mean */
    double *values, *grad, *slots;
} loss_job;

static void loss_unit(void *context, int64_t unit, int thread) {
    const loss_job *job = context;
    (void)thread;
    int64_t end = (unit + 1) * SLOT < job->n ? (unit + 1) * SLOT : job->n;
    int width = job->loss->width;
    double sum = 0;
    for (int64_t i = unit * SLOT; i < end; i++) {
        double value, grad[DD_LOSS_WIDTH];
        job->loss->item(job->x + i * width, job->t + i * width, job->params, &value, grad);
        if (job->values)
            job->values[i] = value;
        if (job->grad)
            for (int k = 0; k < width; k++)
                job->grad[i * width + k] = grad[k] * job->scale;
        sum += value;
    }
    if (job->slots)
        job->slots[unit] = sum;
}

/* Comparisons are written so that NaN fails them. */
dd_status dd_loss_check(const dd_loss *loss, const double *params) {
    for (int k = 0; k < loss->n_params; k++) {
        /* A focal alpha below 0 means "no balance"; every other parameter is 0 or more. */
        bool free_sign = loss->width == 1 && loss->n_params == 2 && k == 0;
        bool fits = isfinite(params[k]) && (free_sign ? params[k] <= 1 : params[k] >= 0);
        if (loss->width == 4)
            fits = fits && params[k] > 0;
        if (!fits)
            return dd_fail(DD_EVALUE, "%s: parameter %d of (%s) is %g, %s was needed", loss->name,
                           k, loss->params, params[k],
                           free_sign          ? "a number of 1 at the most"
                           : loss->width == 4 ? "a number above 0"
                                              : "a number of 0 or more");
    }
    return DD_OK;
}

dd_status dd_loss_run(const dd_loss *loss, int64_t n, const double *x, const double *t,
                      const double *params, dd_loss_reduction reduction, double *values,
                      double *grad) {
    dd_status status = DD_OK;
    double *slots = NULL, sum = 0;
    int64_t units = (n + SLOT - 1) / SLOT;
    params = params ? params : loss->defaults;
    DD_TRY_DONE(dd_loss_check(loss, params));
    /* Threads write one sum a slot; they are added in order below. */
    if (reduction != DD_REDUCE_NONE)
        DD_TRY_DONE(dd_alloc_array((size_t)units, sizeof *slots, &slots));
    loss_job job = {.loss = loss,
                    .n = n,
                    .x = x,
                    .t = t,
                    .params = params,
                    .scale = reduction == DD_REDUCE_MEAN ? 1 / (double)n : 1,
                    .values = reduction == DD_REDUCE_NONE ? values : NULL,
                    .grad = grad,
                    .slots = slots};
    dd_parallel(units, loss_unit, &job);
    for (int64_t u = 0; slots && u < units; u++)
        sum += slots[u];
    if (slots)
        *values = reduction == DD_REDUCE_MEAN && n > 0 ? sum / (double)n : sum;
done:
    dd_free(slots);
    return status;
}

dd_status dd_loss_class_weights(int64_t classes, const double *counts, double beta,
                                double *weights) {
    double sum = 0, present = 0;
    if (!(beta >= 0 && beta < 1))
        return dd_fail(DD_EVALUE, "class_balanced_weights: beta is %g, 0 <= beta < 1 was needed",
                       beta);
    for (int64_t c = 0; c < classes; c++)
        if (!(counts[c] >= 0))
            return dd_fail(DD_EVALUE,
                           "class_balanced_weights: counts[%lld] is %g, 0 or more was needed",
                           (long long)c, counts[c]);
    for (int64_t c = 0; c < classes; c++) {
        /* 1 - beta^n through expm1 and log: exact where beta is close to 1 and n small. */
        double effective = beta > 0 ? -expm1(counts[c] * log(beta)) : 1;
        weights[c] = counts[c] > 0 ? (1 - beta) / effective : 0;
        sum += weights[c];
        present += counts[c] > 0;
    }
    for (int64_t c = 0; c < classes; c++)
        weights[c] = sum > 0 ? weights[c] * present / sum : 0;
    return DD_OK;
}
