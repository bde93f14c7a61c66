/* Loss functions: value and exact gradient, one table (losses.def).
 *
 * The functions here are for every use outside the training step: they compute in double with
 * libm and agree with the formulas to rounding. The training step's fused criterion is
 * detect/criterion.h; it takes the same items for positives and a float32 sweep for the rest. */
#ifndef DD_DETECT_LOSSES_H
#define DD_DETECT_LOSSES_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define DD_LOSS_PARAMS 2
#define DD_LOSS_WIDTH 4

typedef enum dd_loss_reduction {
    DD_REDUCE_NONE = 0,
    DD_REDUCE_MEAN,
    DD_REDUCE_SUM
} dd_loss_reduction;

typedef struct dd_loss {
    const char *name, *doc;
    int width, n_params; /* numbers an item has; parameters it takes */
    const char *params;  /* "alpha,gamma" */
    double defaults[DD_LOSS_PARAMS];
    /* One item: x and t are `width` numbers, grad gets d value / d x; t is a constant. Stable for
     * |logit| up to 1e4 and beyond; a NaN or infinity in x comes out as a non-finite value. */
    void (*item)(const double *x, const double *t, const double *params, double *value,
                 double *grad);
    /* The formula as it is printed, for the tests: no gradient, stable only near the origin. */
    double (*ref)(const double *x, const double *t, const double *params);
    /* Fills the i-th test case and returns 1; 0 after the last. */
    int (*sample)(int i, double *x, double *t, double *params);
} dd_loss;

/* The table, and its length through `count`. */
const dd_loss *dd_loss_table(int *count);

/* NULL, with a message that lists the names, where `name` is unknown. */
const dd_loss *dd_loss_find(const char *name);

/* DD_OK when the parameters are in range; a message that names the one that is not. */
dd_status dd_loss_check(const dd_loss *loss, const double *params);

/* n items: x and t (n, width). params: n_params numbers, NULL for the defaults.
 * values: (n) under DD_REDUCE_NONE, else one number; grad: (n, width), the derivative of the
 * reduced value (of each item's own value under NONE), or NULL. The mean is over items, 0 when
 * n is 0. Sums go through slots of 4,096 items in order: same bits for any number of threads.
 * Fails with DD_EVALUE on parameters out of range and DD_ENOMEM. */
dd_status dd_loss_run(const dd_loss *loss, int64_t n, const double *x, const double *t,
                      const double *params, dd_loss_reduction reduction, double *values,
                      double *grad);

/* Weights of the class-balanced loss (Cui et al. 2019, eq. 4): (1 - beta) / (1 - beta^count),
 * normalized to sum to the number of classes that have samples, so that their mean is 1 however
 * many classes the data set names; a class without samples gets 0. counts, weights: (classes).
 * Fails on a negative count, NaN, or beta outside [0, 1). */
dd_status dd_loss_class_weights(int64_t classes, const double *counts, double beta,
                                double *weights);

#endif
