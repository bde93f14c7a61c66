/* The optimizer: one fused pass over flat buffers, in parallel over blocks. */
#ifndef DD_GRAPH_OPTIM_H
#define DD_GRAPH_OPTIM_H

#include "graph/store.h"

typedef enum dd_optimizer_kind { DD_SGD = 0, DD_ADAMW } dd_optimizer_kind;

typedef struct dd_optim_step {
    dd_optimizer_kind kind;
    float lr, decay, momentum, beta2, eps; /* momentum is AdamW's beta1 */
    float clip_norm;                       /* 0: none */
    float grad_scale;                      /* 1 / accumulated batches */
    float ema_rate;                        /* share of the new weights in the average; 0 keeps it */
    uint64_t step;                         /* from 1 on */
} dd_optim_step;

/* Updates the store's trainable entries (by segment: lr_factor, decay, frozen) from `gradient`, and
 * the moments m, v and the average ema (all of the store's size; v NULL with SGD, ema may be NULL;
 * ema covers state entries too), then clears `gradient`. *norm is the gradient's norm before
 * clipping. A norm that is not finite leaves everything untouched and fails with DD_EVALUE naming
 * the first entry whose gradient is not finite. */
dd_status dd_optim_apply(dd_store *store, float *gradient, float *m, float *v, float *ema,
                         const dd_optim_step *o, double *norm);

#endif
