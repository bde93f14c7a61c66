/* The optimizer against its formulas in double, and what it promises: the same bits for any number
 * of threads, frozen and state entries, clipping, and nothing touched by a gradient that is not
 * finite.
 *
 * AdamW: Loshchilov & Hutter 2019 as torch.optim.AdamW has it; SGD: Nesterov's momentum as
 * torch.optim.SGD has it, with the decay decoupled. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "check.h"
#include "graph/optim.h"

#define STEPS 4

/* The flat twins of a store. */
typedef struct buffers {
    dd_store *s;
    float *g, *m, *v, *ema;
} buffers;

static void must(dd_status status) {
    if (status == DD_OK)
        return;
    fprintf(stderr, "%s\n", dd_message());
    abort();
}

static const struct {
    const char *name;
    dd_role role;
    int64_t count;
    bool decay, frozen;
    float lr_factor;
} entries[] = {
    {"a.weight", DD_TRAINABLE, 40000, true, false, 1},
    {"a.bias", DD_TRAINABLE, 7, false, false, 1},
    {"a.mean", DD_STATE, 7, false, false, 1},
    {"b.weight", DD_TRAINABLE, 33, true, false, 0.1f},
    {"b.frozen", DD_TRAINABLE, 100, true, true, 1},
    {"b.empty", DD_TRAINABLE, 0, true, false, 1},
    {"c.weight", DD_TRAINABLE, 20000, true, false, 0.1f},
    {"c.constant", DD_CONSTANT, 5, false, false, 1},
    {"d.weight", DD_TRAINABLE, 1, true, false, 1},
};

enum { ENTRIES = sizeof entries / sizeof *entries };

static void make(buffers *b) {
    dd_stream r;
    must(dd_store_create(&b->s));
    dd_stream_init(&r, 3, 0, 0, DD_FOR_TEST);
    for (int i = 0; i < ENTRIES; i++) {
        dd_type t = {.dtype = DD_F32, .rank = 1, .dims = {entries[i].count}};
        int e;
        must(dd_store_add(b->s, entries[i].name, entries[i].role, &t, entries[i].decay, &e));
        b->s->entries[e].frozen = entries[i].frozen;
        b->s->entries[e].lr_factor = entries[i].lr_factor;
        for (int64_t k = 0; k < entries[i].count; k++)
            dd_store_data(b->s, e)[k] = dd_stream_normal(&r);
    }
    float **all[] = {&b->g, &b->m, &b->v, &b->ema};
    for (int i = 0; i < 4; i++)
        must(dd_alloc_array(b->s->size, sizeof(float), all[i]));
    memcpy(b->ema, b->s->values, b->s->size * sizeof(float));
}

static void destroy(buffers *b) {
    dd_free(b->g);
    dd_free(b->m);
    dd_free(b->v);
    dd_free(b->ema);
    dd_store_destroy(b->s);
}

/* The gradient of step `step`, the same for everybody. */
static void fill_gradient(buffers *b, uint32_t step) {
    dd_stream r;
    dd_stream_init(&r, 4, step, 0, DD_FOR_TEST);
    for (size_t e = 0; e < b->s->n; e++)
        for (int64_t k = 0; k < b->s->entries[e].count; k++)
            b->g[b->s->entries[e].offset + k] = 0.01f * dd_stream_normal(&r);
}

static dd_optim_step options(dd_optimizer_kind kind, uint64_t step, bool clip) {
    return (dd_optim_step){.kind = kind,
                           .lr = 0.01f,
                           .decay = 0.05f,
                           .momentum = 0.9f,
                           .beta2 = 0.99f,
                           .eps = 1e-8f,
                           .clip_norm = clip ? 0.5f : 0,
                           .grad_scale = 0.5f,
                           .ema_rate = 0.1f,
                           .step = step};
}

/* One element in double: w, m, v, ema. */
static void reference(const dd_optim_step *o, const dd_entry *e, double g, double x[4]) {
    double lr = (double)o->lr * (double)e->lr_factor, b1 = (double)o->momentum,
           b2 = (double)o->beta2, t = (double)o->step;
    if (e->role == DD_TRAINABLE && !e->frozen) {
        if (e->decay)
            x[0] -= lr * (double)o->decay * x[0];
        if (o->kind == DD_ADAMW) {
            x[1] = b1 * x[1] + (1 - b1) * g;
            x[2] = b2 * x[2] + (1 - b2) * g * g;
            double m = x[1] / (1 - pow(b1, t)), v = x[2] / (1 - pow(b2, t));
            x[0] -= lr * m / (sqrt(v) + (double)o->eps);
        } else {
            x[1] = b1 * x[1] + g;
            x[0] -= lr * (g + b1 * x[1]);
        }
    }
    x[3] += (double)o->ema_rate * (x[0] - x[3]);
}

static void check_formulas(dd_optimizer_kind kind, bool clip) {
    buffers b;
    double *x, worst = 0;
    make(&b);
    must(dd_alloc_array(b.s->size * 4, sizeof *x, &x));
    for (size_t k = 0; k < b.s->size; k++)
        x[4 * k] = x[4 * k + 3] = (double)b.s->values[k];
    for (uint32_t step = 1; step <= STEPS; step++) {
        dd_optim_step o = options(kind, step, clip);
        double squares = 0, norm = -1;
        fill_gradient(&b, step);
        for (size_t e = 0; e < b.s->n; e++)
            for (int64_t k = 0; k < b.s->entries[e].count; k++)
                if (b.s->entries[e].role == DD_TRAINABLE && !b.s->entries[e].frozen)
                    squares += pow((double)b.g[b.s->entries[e].offset + k], 2);
        double want = sqrt(squares) * 0.5;
        double scale = clip && want > 0.5 ? 0.5 * 0.5 / (want + 1e-6) : 0.5;
        for (size_t e = 0; e < b.s->n; e++)
            for (int64_t k = 0; k < b.s->entries[e].count; k++) {
                int64_t at = b.s->entries[e].offset + k;
                reference(&o, &b.s->entries[e], scale * (double)b.g[at], x + 4 * at);
            }
        uint64_t version = b.s->version;
        dd_status status =
            dd_optim_apply(b.s, b.g, b.m, kind == DD_ADAMW ? b.v : NULL, b.ema, &o, &norm);
        CHECK(status == DD_OK, "%s", dd_message());
        CHECK(fabs(norm - want) < 1e-6 * want, "norm %g, %g is right", norm, want);
        CHECK(b.s->version > version, "the version");
    }
    for (size_t k = 0; k < b.s->size; k++) {
        worst = fmax(worst, fabs(x[4 * k] - (double)b.s->values[k]));
        worst = fmax(worst, fabs(x[4 * k + 3] - (double)b.ema[k]));
        CHECK(b.g[k] == 0, "the gradient is cleared");
    }
    CHECK(worst < 2e-6, "kind %d, clip %d: weights differ by %.3g", kind, clip, worst);
    dd_free(x);
    destroy(&b);
}

static void check_threads(void) {
    for (int kind = DD_SGD; kind <= DD_ADAMW; kind++) {
        buffers first = {0};
        double norms[5];
        for (int threads = 1; threads <= 4; threads++) {
            buffers b;
            must(dd_threads_set(threads));
            make(&b);
            for (uint32_t step = 1; step <= 2; step++) {
                dd_optim_step o = options((dd_optimizer_kind)kind, step, true);
                fill_gradient(&b, step);
                must(dd_optim_apply(b.s, b.g, b.m, b.v, b.ema, &o, &norms[threads]));
            }
            if (threads == 1) {
                first = b;
                continue;
            }
            size_t bytes = b.s->size * sizeof(float);
            CHECK(norms[threads] == norms[1] && memcmp(b.s->values, first.s->values, bytes) == 0 &&
                      memcmp(b.m, first.m, bytes) == 0 && memcmp(b.v, first.v, bytes) == 0 &&
                      memcmp(b.ema, first.ema, bytes) == 0,
                  "kind %d: %d threads give other bits than one", kind, threads);
            destroy(&b);
        }
        destroy(&first);
    }
    must(dd_threads_set(2));
}

static void check_bad(void) {
    buffers b;
    float *before;
    make(&b);
    must(dd_alloc_array(b.s->size, sizeof *before, &before));
    memcpy(before, b.s->values, b.s->size * sizeof *before);
    const float values[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        dd_optim_step o = options(DD_ADAMW, 1, true);
        double norm = -1;
        fill_gradient(&b, 1);
        int e = dd_store_find(b.s, "c.weight");
        b.g[b.s->entries[e].offset + 19999] = values[i];
        uint64_t version = b.s->version;
        float kept = b.g[0];
        CHECK(dd_optim_apply(b.s, b.g, b.m, b.v, b.ema, &o, &norm) == DD_EVALUE &&
                  strstr(dd_message(), "c.weight"),
              "%s", dd_message());
        CHECK(norm == -1 && b.s->version == version && b.g[0] == kept && b.m[0] == 0 &&
                  memcmp(before, b.s->values, b.s->size * sizeof *before) == 0,
              "everything is untouched");
        b.g[b.s->entries[e].offset + 19999] = 0;
        e = dd_store_find(b.s, "b.frozen"); /* what is frozen may hold anything */
        b.g[b.s->entries[e].offset] = values[i];
        CHECK(dd_optim_apply(b.s, b.g, b.m, b.v, b.ema, &o, &norm) == DD_OK, "%s", dd_message());
        memcpy(before, b.s->values, b.s->size * sizeof *before);
        memset(b.m, 0, b.s->size * sizeof(float));
    }
    dd_optim_step good = options(DD_ADAMW, 1, true), bad[10];
    for (int i = 0; i < 10; i++)
        bad[i] = good;
    bad[0].step = 0;
    bad[1].lr = NAN;
    bad[2].beta2 = 1;
    bad[3].momentum = -0.1f;
    bad[4].eps = 0;
    bad[5].clip_norm = -1;
    bad[6].ema_rate = 2;
    bad[7].kind = (dd_optimizer_kind)5;
    bad[8].decay = INFINITY;
    bad[9].grad_scale = NAN;
    for (int i = 0; i < 10; i++)
        CHECK(dd_optim_apply(b.s, b.g, b.m, b.v, b.ema, &bad[i], NULL) == DD_EVALUE, "row %d", i);
    CHECK(dd_optim_apply(b.s, b.g, NULL, b.v, b.ema, &good, NULL) == DD_EVALUE, "no m");
    CHECK(dd_optim_apply(b.s, b.g, b.m, NULL, b.ema, &good, NULL) == DD_EVALUE, "no v");
    uint64_t calls = dd_alloc_calls();
    CHECK(dd_optim_apply(b.s, b.g, b.m, b.v, NULL, &good, NULL) == DD_OK, "%s", dd_message());
    CHECK(dd_alloc_calls() == calls, "a step allocates nothing");
    dd_free(before);
    destroy(&b);
    dd_store *empty; /* a store without entries */
    must(dd_store_create(&empty));
    float one = 0;
    double norm = -1;
    CHECK(dd_optim_apply(empty, &one, &one, &one, NULL, &good, &norm) == DD_OK && norm == 0, "%s",
          dd_message());
    dd_store_destroy(empty);
}

int main(void) {
    for (int kind = DD_SGD; kind <= DD_ADAMW; kind++)
        for (int clip = 0; clip <= 1; clip++)
            check_formulas((dd_optimizer_kind)kind, clip);
    check_threads();
    check_bad();
    CHECK(dd_alloc_live() == 0, "%llu blocks leak", (unsigned long long)dd_alloc_live());
    return check_done("check_optim");
}
