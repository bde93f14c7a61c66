/* The elementwise functions in double precision, for the operators that apply one. */
#ifndef DD_OPS_ACTIVATION_H
#define DD_OPS_ACTIVATION_H

#include "kernels/kernels.h"

/* f(x) and f'(x); the slopes at kinks are those of kernels/activation.h, which are torch's. A NaN
 * comes through. */
double dd_unary_value(dd_act act, double x);
double dd_unary_slope(dd_act act, double x);

#endif
