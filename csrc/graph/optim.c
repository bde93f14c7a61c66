/* The optimizer: one pass over the flat buffers, cut into blocks of fixed size.
 *
 * Blocks are cut by position alone, each is one unit of work, and the squares of the norm are added
 * in block order: so the bits do not depend on the number of threads. Within a block, neighbouring
 * entries of equal settings are one kernel call (the pads between entries are zero in every buffer
 * and stay zero). Nothing is allocated. */
#include "graph/optim.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/threads.h"
#include "kernels/kernels.h"

#define BLOCK_MIN 16384 /* floats: 64 KB of each buffer, a few of them stay in the L2 cache */
#define BLOCKS_MAX 1024 /* partial sums on the stack; larger stores get larger blocks */
#define SQUARES_UNIT 1024

/* torch's clip_grad_norm_ divides by norm + 1e-6 */
#define CLIP_EPS 1e-6

/* One call, as its units see it. */
typedef struct job {
    const dd_store *s;
    const dd_optim_step *o;
    const dd_kernels_table *k;
    float *gradient, *m, *v, *ema;
    int64_t block;
    float g_scale, bias1, bias2;
    double squares[BLOCKS_MAX];
} job;

/* Whether the optimizer moves the entry; the average follows all entries. */
static bool updates(const dd_entry *e) {
    return e->role == DD_TRAINABLE && !e->frozen;
}

/* Whether one kernel call may do both. */
static bool same_settings(const dd_entry *a, const dd_entry *b) {
    if (!updates(a) || !updates(b))
        return updates(a) == updates(b);
    return a->lr_factor == b->lr_factor && a->decay == b->decay;
}

/* The first entry that ends behind `at`; s->n where there is none. */
static size_t entry_at(const dd_store *s, int64_t at) {
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (s->entries[middle].offset + s->entries[middle].count > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

typedef struct run {
    const dd_entry *settings;
    int64_t begin, end;
} run;

/* The next run of equal settings in [*at, end), or false. */
static bool next_run(const dd_store *s, size_t *entry, int64_t *at, int64_t end, run *r) {
    while (*entry < s->n && s->entries[*entry].count == 0)
        (*entry)++;
    if (*entry >= s->n)
        return false;
    const dd_entry *e = &s->entries[*entry];
    int64_t begin = e->offset > *at ? e->offset : *at;
    if (begin >= end)
        return false;
    *r = (run){.settings = e, .begin = begin, .end = e->offset + e->count};
    for ((*entry)++; *entry < s->n && same_settings(e, &s->entries[*entry]); (*entry)++)
        if (s->entries[*entry].count)
            r->end = s->entries[*entry].offset + s->entries[*entry].count;
    if (r->end > end)
        r->end = end;
    *at = r->end;
    return true;
}

/* The floats [*begin, *end) of a unit; the last one is shorter. */
static void block_range(const job *j, int64_t unit, int64_t *begin, int64_t *end) {
    *begin = unit * j->block;
    *end = *begin + j->block;
    if (*end > (int64_t)j->s->size)
        *end = (int64_t)j->s->size;
}

/* First pass: the squares of what will be updated. A frozen entry's gradient does not count. */
static void sum_block(void *context, int64_t unit, int thread) {
    job *j = context;
    int64_t at, end;
    run r;
    double sum = 0;
    (void)thread;
    block_range(j, unit, &at, &end);
    size_t entry = entry_at(j->s, at);
    while (next_run(j->s, &entry, &at, end, &r))
        if (updates(r.settings))
            sum += j->k->sum_squares_f32(j->gradient + r.begin, r.end - r.begin);
    j->squares[unit] = sum;
}

/* One kernel call: weights, moments and average of a run in one pass over memory. */
static void update_run(const job *j, const run *r) {
    const dd_optim_step *o = j->o;
    const int64_t b = r->begin, n = r->end - r->begin;
    float *ema = j->ema && o->ema_rate > 0 ? j->ema + b : NULL;
    if (!updates(r->settings)) { /* running statistics, frozen entries: the average follows */
        if (ema)
            j->k->lerp_f32(ema, j->s->values + b, o->ema_rate, n);
        return;
    }
    dd_optimize call = {.w = j->s->values + b,
                        .m = j->m + b,
                        .v = j->v ? j->v + b : NULL,
                        .ema = ema,
                        .g = j->gradient + b,
                        .n = n,
                        .g_scale = j->g_scale,
                        .lr = o->lr * r->settings->lr_factor,
                        .decay = r->settings->decay ? o->decay : 0,
                        .beta1 = o->momentum,
                        .beta2 = o->beta2,
                        .eps = o->eps,
                        .bias1 = j->bias1,
                        .bias2 = j->bias2,
                        .ema_rate = o->ema_rate,
                        .nesterov = o->kind == DD_SGD};
    if (o->kind == DD_ADAMW)
        j->k->adamw_f32(&call);
    else
        j->k->sgd_f32(&call);
}

/* Second pass. The gradient is cleared while it is in the cache. */
static void update_block(void *context, int64_t unit, int thread) {
    job *j = context;
    int64_t begin, end;
    run r;
    (void)thread;
    block_range(j, unit, &begin, &end);
    int64_t at = begin;
    size_t entry = entry_at(j->s, at);
    while (next_run(j->s, &entry, &at, end, &r))
        update_run(j, &r);
    memset(j->gradient + begin, 0, (size_t)(end - begin) * sizeof(float));
}

/* The message of a gradient that is not finite. */
static dd_status fail_nonfinite(const dd_store *s, const float *gradient) {
    for (size_t i = 0; i < s->n; i++) {
        const dd_entry *e = &s->entries[i];
        for (int64_t k = 0; updates(e) && k < e->count; k++)
            if (!isfinite(gradient[e->offset + k]))
                return dd_fail(DD_EVALUE,
                               "optimizer: the gradient of '%s' is %g at element %lld, a finite "
                               "number is needed",
                               e->name, (double)gradient[e->offset + k], (long long)k);
    }
    return dd_fail(DD_EVALUE, "optimizer: the gradient's norm is not finite");
}

/* Refuses what would fill the weights with NaN, or divide by zero in the bias correction. */
static dd_status check_step(const dd_optim_step *o, const float *m, const float *v) {
    if (o->kind != DD_SGD && o->kind != DD_ADAMW)
        return dd_fail(DD_EVALUE, "optimizer: kind %d, 0 (SGD) or 1 (AdamW) is needed",
                       (int)o->kind);
    if (!m || (o->kind == DD_ADAMW && !v))
        return dd_fail(DD_EVALUE, "optimizer: a moment's buffer is missing");
    if (o->step < 1)
        return dd_fail(DD_EVALUE, "optimizer: step 0, steps count from 1");
    bool fine = isfinite(o->lr) && isfinite(o->decay) && isfinite(o->grad_scale) &&
                o->momentum >= 0 && o->momentum < 1 && o->clip_norm >= 0 && o->ema_rate >= 0 &&
                o->ema_rate <= 1;
    if (o->kind == DD_ADAMW)
        fine = fine && o->beta2 >= 0 && o->beta2 < 1 && o->eps > 0;
    if (!fine)
        return dd_fail(DD_EVALUE,
                       "optimizer: lr %g, decay %g, momentum %g, beta2 %g, eps %g, clip_norm %g, "
                       "grad_scale %g, ema_rate %g: one is out of range",
                       (double)o->lr, (double)o->decay, (double)o->momentum, (double)o->beta2,
                       (double)o->eps, (double)o->clip_norm, (double)o->grad_scale,
                       (double)o->ema_rate);
    return DD_OK;
}

dd_status dd_optim_apply(dd_store *store, float *gradient, float *m, float *v, float *ema,
                         const dd_optim_step *o, double *norm) {
    DD_TRY(check_step(o, m, v));
    job j = {
        .s = store, .o = o, .k = dd_kernels(), .gradient = gradient, .m = m, .v = v, .ema = ema};
    int64_t size = (int64_t)store->size;
    /* a whole number of the norm's own blocks, at most BLOCKS_MAX of them */
    j.block = (size + BLOCKS_MAX - 1) / BLOCKS_MAX;
    j.block = (j.block + SQUARES_UNIT - 1) / SQUARES_UNIT * SQUARES_UNIT;
    if (j.block < BLOCK_MIN)
        j.block = BLOCK_MIN;
    int64_t units = (size + j.block - 1) / j.block;

    dd_parallel(units, sum_block, &j);
    double sum = 0;
    for (int64_t i = 0; i < units; i++)
        sum += j.squares[i];
    /* Double: neither the sum of squares of float gradients nor its root can overflow. */
    double length = sqrt(sum) * fabs((double)o->grad_scale);
    if (!isfinite(length))
        return fail_nonfinite(store, gradient);

    double clip = o->clip_norm > 0 ? (double)o->clip_norm / (length + CLIP_EPS) : 1;
    j.g_scale = (float)((double)o->grad_scale * (clip < 1 ? clip : 1));
    j.bias1 = (float)(1 - pow((double)o->momentum, (double)o->step));
    j.bias2 = (float)(1 - pow((double)o->beta2, (double)o->step));
    dd_parallel(units, update_block, &j);
    dd_store_touch(store);
    if (norm)
        *norm = length;
    return DD_OK;
}
