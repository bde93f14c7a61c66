/* detect/: the loss table against its formulas and finite differences, the float32 sweep against
 * double, anchors, the three assignments, the criterion's gradients, NMS and post-processing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "check.h"
#include "detect/assign.h"
#include "detect/boxes.h"
#include "detect/criterion.h"
#include "detect/decode.h"
#include "detect/losses.h"
#include "detect/nms.h"
#include "detect/sigmoid.h"
#include "detect/sweep.h"

static dd_stream draws;
static float draw(float low, float high) {
    return dd_stream_range(&draws, low, high);
}

static double error_of(double got, double want) {
    double size = fabs(want) > 1 ? fabs(want) : 1;
    return fabs(got - want) / size;
}

/* ---- losses -------------------------------------------------------------------------------- */

static void check_loss_samples(const dd_loss *loss) {
    double x[4], t[4], params[2], value, grad[4], spare[4], high, low;
    int cases = 0;
    for (; loss->sample(cases, x, t, params); cases++) {
        loss->item(x, t, params, &value, grad);
        CHECK(error_of(value, loss->ref(x, t, params)) < 1e-9, "%s %d: %g, formula %g", loss->name,
              cases, value, loss->ref(x, t, params));
        for (int k = 0; k < loss->width; k++) {
            double at = x[k], step = 1e-5 * (1 + fabs(at));
            x[k] = at + step;
            loss->item(x, t, params, &high, spare);
            x[k] = at - step;
            loss->item(x, t, params, &low, spare);
            x[k] = at;
            double slope = (high - low) / (2 * step);
            CHECK(error_of(grad[k], slope) < 2e-6, "%s %d [%d]: gradient %.9g, differences %.9g",
                  loss->name, cases, k, grad[k], slope);
        }
    }
    CHECK(cases > 0, "%s has no samples", loss->name);
}

static void check_loss_extremes(const dd_loss *loss) {
    static const double logits[] = {1e4, -1e4, 800, -800, 0};
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; loss->width == 1 && i < 5; i++)
        for (int k = 0; k < 3; k++) {
            double target = 0.5 * k, value, grad;
            loss->item(&logits[i], &target, loss->defaults, &value, &grad);
            CHECK(isfinite(value) && value >= 0 && isfinite(grad), "%s(%g, %g): %g, %g", loss->name,
                  logits[i], target, value, grad);
        }
    for (int i = 0; i < 3; i++) {
        double x[4] = {bad[i], 1, 5, 6}, t[4] = {0, 0, 4, 4}, value, grad[4];
        loss->item(x, t, loss->defaults, &value, grad);
        CHECK(!isfinite(value), "%s of %g is %g", loss->name, bad[i], value);
    }
}

static void check_loss_run(const dd_loss *loss) {
    enum { N = 5000 };
    static double x[4 * N], t[4 * N], each[N], grad[4 * N], reduced[4 * N];
    double sum = 0, mean = 0, total = 0;
    for (int i = 0; i < 4 * N; i++) {
        x[i] = draw(-3, 3);
        t[i] = draw(0, 1);
    }
    CHECK(!dd_loss_run(loss, N, x, t, NULL, DD_REDUCE_NONE, each, grad), "%s", dd_message());
    CHECK(!dd_loss_run(loss, N, x, t, NULL, DD_REDUCE_SUM, &sum, NULL), "%s", dd_message());
    CHECK(!dd_loss_run(loss, N, x, t, NULL, DD_REDUCE_MEAN, &mean, reduced), "%s", dd_message());
    for (int i = 0; i < N; i++)
        total += each[i];
    CHECK(error_of(sum, total) < 1e-12 && error_of(mean, total / N) < 1e-12, "%s: %g %g %g",
          loss->name, total, sum, mean);
    for (int i = 0; i < N * loss->width; i++)
        CHECK(fabs(reduced[i] - grad[i] / N) < 1e-15, "%s: gradient of the mean", loss->name);
    CHECK(!dd_loss_run(loss, 0, x, t, NULL, DD_REDUCE_MEAN, &mean, NULL) && mean == 0, "empty");
    dd_alloc_fail_at(1);
    CHECK(dd_loss_run(loss, N, x, t, NULL, DD_REDUCE_SUM, &sum, NULL) == DD_ENOMEM, "no memory");
    dd_alloc_fail_at(0);
}

static void check_losses(void) {
    int count;
    const dd_loss *table = dd_loss_table(&count);
    for (int i = 0; i < count; i++) {
        CHECK(dd_loss_find(table[i].name) == &table[i] && table[i].doc[0], "row %d", i);
        check_loss_samples(&table[i]);
        check_loss_extremes(&table[i]);
        check_loss_run(&table[i]);
    }
    CHECK(!dd_loss_find("hinge") && strstr(dd_message(), "bce, focal"), "%s", dd_message());
    double params[2] = {0.25, -1}, value;
    CHECK(dd_loss_run(dd_loss_find("focal"), 0, NULL, NULL, params, DD_REDUCE_SUM, &value, NULL) ==
              DD_EVALUE,
          "a negative gamma passes");
    double counts[] = {10, 1000, 0}, weights[3];
    CHECK(!dd_loss_class_weights(2, counts, 0.999, weights) && fabs(weights[0] - 1.969) < 1e-3 &&
              fabs(weights[0] + weights[1] - 2) < 1e-12,
          "%g %g", weights[0], weights[1]);
    CHECK(!dd_loss_class_weights(3, counts, 0, weights) && weights[0] == 1 && weights[2] == 0, "%g",
          weights[0]);
    CHECK(dd_loss_class_weights(2, counts, 1, weights) == DD_EVALUE, "beta 1");
}

/* ---- the sweep ----------------------------------------------------------------------------- */

static void check_sigmoid(void) {
    double worst_exp = 0, worst_log = 0;
    for (float x = -87; x < 87; x += 0.00731f)
        worst_exp = fmax(worst_exp, fabs(dd_exp(x) / exp((double)x) - 1));
    for (float e = 1; e > 1e-37f; e *= 0.9987f)
        worst_log = fmax(worst_log, fabs(dd_log1p_unit(e) / log1p((double)e) - 1));
    CHECK(worst_exp < 2.5e-7 && worst_log < 2.5e-7, "%.3g %.3g", worst_exp, worst_log);
    CHECK(isnan(dd_exp(NAN)) && dd_sigmoid(0) == 0.5f, "NaN or 0");
}

static void check_sweep(void) {
    enum { N = 4001 };
    static float x[N], weight[N], value[N], grad[N];
    static const float gammas[] = {0, 2, 1, 0.5f, 3.3f};
    static const float ends[] = {1e4f, -1e4f, 90, -90, 0, -0.0f};
    const dd_loss *qfl = dd_loss_find("qfl");
    for (int i = 0; i < N; i++) {
        x[i] = i < 6 ? ends[i] : draw(-20, 20);
        weight[i] = draw(0.1f, 3);
    }
    for (int g = 0; g < 5; g++) {
        double params = gammas[g], target = 0, v, d, sum = 0;
        dd_sweep_background(N, x, weight, gammas[g], 0.25f, value, grad);
        for (int i = 0; i < N; i++) {
            double logit = x[i];
            qfl->item(&logit, &target, &params, &v, &d);
            sum += value[i];
            double bound = 1e-6;
            if (gammas[g] != 0 && gammas[g] != 2 && logit < 0)
                bound += 1.2e-7 * gammas[g] * (1 - logit);
            CHECK(fabs(value[i] - weight[i] * v) <= bound * fabs(weight[i] * v) + 1e-30,
                  "gamma %g x %g: %g, %g", gammas[g], x[i], value[i], weight[i] * v);
            CHECK(fabs(grad[i] - 0.25 * weight[i] * d) <=
                      2 * bound * fabs(0.25 * weight[i] * d) + 1e-30,
                  "gamma %g x %g: slope %g, %g", gammas[g], x[i], grad[i], 0.25 * weight[i] * d);
        }
        CHECK(error_of(dd_sweep_sum(N, value), sum) < 1e-12, "sum");
        x[77] = g % 2 ? -INFINITY : NAN;
        dd_sweep_background(N, x, weight, gammas[g], 1, value, grad);
        CHECK(!isfinite(dd_sweep_sum(N, value)) && isnan(dd_sweep_poison(N, x)), "hidden");
        x[77] = 1;
    }
    CHECK(dd_sweep_poison(N, x) == 0, "poisoned");
}

/* ---- anchors and assignment ---------------------------------------------------------------- */

enum { SIDE = 160, NC = 4 };
static const int64_t LEVELS[] = {0, 1200, 1500, 1575};
enum { A = 1575, N_IMAGES = 3, M = 14 };
static float anchor_boxes[4 * A];

static void make_anchors(void) {
    static const double ratios[] = {1, 2, 0.5};
    float *out = anchor_boxes;
    for (int level = 0; level < 3; level++) {
        double stride = 8 << level, size = 3 * stride;
        dd_anchor_grid grid = {
            SIDE >> (3 + level), SIDE >> (3 + level), stride, 1, 3, &size, ratios};
        int64_t count = 0;
        CHECK(!dd_anchor_count(&grid, &count) && count == LEVELS[level + 1] - LEVELS[level],
              "level %d: %lld", level, (long long)count);
        dd_anchor_fill(&grid, out);
        out += 4 * count;
    }
    double nothing = 0;
    dd_anchor_grid bad = {2, 2, 8, 1, 1, &nothing, ratios};
    int64_t count;
    CHECK(dd_anchor_count(&bad, &count) == DD_EVALUE, "size 0 passes");
    bad = (dd_anchor_grid){1 << 30, 1 << 30, 8, 1, 1, ratios, ratios};
    CHECK(dd_anchor_count(&bad, &count) == DD_EVALUE, "2^60 anchors pass");
}

typedef struct scene {
    float boxes[4 * M];
    int32_t labels[M];
    uint8_t ignore[M];
    int64_t offsets[N_IMAGES + 1];
    float logits[N_IMAGES * A * NC], deltas[N_IMAGES * A * 4];
} scene;

/* Objects of every size, one of two pixels, two identical, one ignore region, one broken box; the
 * last image has none. */
static void make_scene(scene *s) {
    for (int m = 0; m < M; m++) {
        float w = draw(6, 90), h = w * draw(0.5f, 2), x = draw(0, 120), y = draw(0, 120);
        float *b = s->boxes + 4 * m;
        b[0] = x;
        b[1] = y;
        b[2] = x + w;
        b[3] = y + h;
        s->labels[m] = m % NC;
        s->ignore[m] = 0;
    }
    memcpy(s->boxes + 4, (float[4]){33.2f, 50.1f, 35.2f, 52.1f}, 16);
    memcpy(s->boxes + 12, s->boxes + 8, 16);
    s->boxes[18] = s->boxes[16]; /* object 4: no area */
    s->ignore[5] = 1;
    s->labels[5] = -7; /* not read */
    memcpy(s->boxes + 20, (float[4]){90, 90, 150, 150}, 16);
    s->offsets[0] = 0;
    s->offsets[1] = 8;
    s->offsets[2] = s->offsets[3] = M;
    for (int i = 0; i < N_IMAGES * A * NC; i++)
        s->logits[i] = draw(-5, 1);
    for (int i = 0; i < N_IMAGES * A * 4; i++)
        s->deltas[i] = draw(-0.3f, 0.3f);
}

static void check_assign(const scene *s, dd_assigner assigner) {
    static int32_t object[A];
    static float target[A], iou[A];
    static float memory[A * 8];
    dd_assign_options o = dd_assign_defaults(assigner);
    dd_anchor_index index;
    CHECK(dd_anchor_index_bytes(A) <= sizeof memory, "index");
    CHECK(!dd_anchor_index_init(&index, anchor_boxes, A, LEVELS, 3, memory), "%s", dd_message());
    CHECK(!dd_assign_check(&o, &index), "%s", dd_message());
    dd_objects objects = {8, s->boxes, s->labels, s->ignore};
    dd_predictions predictions = {NC, s->logits, s->deltas};
    dd_assignment out = {object, target, iou};
    void *scratch = malloc(dd_assign_scratch_bytes(&o, &index, 8));
    dd_assign(&o, &index, &objects, &predictions, scratch, &out);
    int owned[8] = {0}, ignored = 0;
    for (int a = 0; a < A; a++) {
        CHECK(object[a] >= -2 && object[a] < 8, "object %d", object[a]);
        if (object[a] >= 0)
            owned[object[a]]++;
        ignored += object[a] == DD_IGNORED;
        CHECK((object[a] >= 0) == (target[a] > 0), "rule %d anchor %d: object %d, target %g",
              assigner, a, object[a], target[a]);
        CHECK(target[a] <= 1 && iou[a] <= 1 + 1e-6f, "target %g, IoU %g", target[a], iou[a]);
    }
    for (int m = 0; m < 8; m++)
        CHECK((owned[m] > 0) == (m != 4 && m != 5), "rule %d: object %d has %d anchors", assigner,
              m, owned[m]);
    CHECK(ignored > 0, "the ignore region is not ignored");
    CHECK(assigner == DD_ASSIGN_MAX_IOU || owned[1] == 1, "the tiny object has %d", owned[1]);
    free(scratch);
    o.topk = 0;
    CHECK(dd_assign_check(&o, &index) == DD_EVALUE, "topk 0 passes");
    int64_t levels[] = {0, 1200, 1100, A};
    CHECK(dd_anchor_index_init(&index, anchor_boxes, A, levels, 3, memory) == DD_EVALUE, "levels");
}

/* ---- criterion ----------------------------------------------------------------------------- */

static double total_loss(const dd_criterion *c, const dd_detection_batch *b) {
    dd_detection_loss loss = {0};
    CHECK(!dd_detection_loss_run(c, b, &loss), "%s", dd_message());
    return loss.loss_cls + loss.loss_box;
}

/* Differences of the whole criterion at the most telling places. ATSS does not look at the
 * predictions, so nothing but the focal loss' and l2's smooth functions moves; TAL's targets move
 * with them, which is why they are not checked this way. */
static void check_criterion_gradient(scene *s, const dd_detection_batch *b, dd_criterion c,
                                     const char *cls, const char *box) {
    static float dlogits[N_IMAGES * A * NC], ddeltas[N_IMAGES * A * 4];
    dd_detection_loss loss = {.dlogits = dlogits, .ddeltas = ddeltas};
    c.cls_loss = dd_loss_find(cls);
    c.box_loss = dd_loss_find(box);
    memcpy(c.cls_params, c.cls_loss->defaults, sizeof c.cls_params);
    memcpy(c.box_params, c.box_loss->defaults, sizeof c.box_params);
    CHECK(!dd_detection_loss_run(&c, b, &loss), "%s", dd_message());
    CHECK(loss.positives > 10 && loss.target_sum > 1, "%lld positives", (long long)loss.positives);
    int boxes = 0;
    for (int i = 0, done = 0; i < N_IMAGES * A * NC && done < 12; i += 997, done++) {
        float at = s->logits[i];
        s->logits[i] = at + 0.02f;
        double high = total_loss(&c, b);
        s->logits[i] = at - 0.02f;
        double slope = (high - total_loss(&c, b)) / ((double)(at + 0.02f) - (at - 0.02f));
        s->logits[i] = at;
        CHECK(fabs(dlogits[i] - slope) < 5e-3 * fabs(slope) + 1e-9, "%s: %g, differences %g", cls,
              dlogits[i], slope);
    }
    for (int i = 0; i < N_IMAGES * A * 4 && boxes < 12; i++) {
        if (ddeltas[i] == 0)
            continue;
        float at = s->deltas[i];
        s->deltas[i] = at + 0.001f;
        double high = total_loss(&c, b);
        s->deltas[i] = at - 0.001f;
        double slope = (high - total_loss(&c, b)) / ((double)(at + 0.001f) - (at - 0.001f));
        s->deltas[i] = at;
        CHECK(fabs(ddeltas[i] - slope) < 2e-2 * fabs(slope) + 2e-5, "%s [%d]: %g, differences %g",
              box, i, ddeltas[i], slope);
        boxes++;
    }
    CHECK(boxes == 12, "%d box gradients", boxes);
}

static void check_criterion(scene *s) {
    static float g1[N_IMAGES * A * NC], g2[N_IMAGES * A * NC], b1[N_IMAGES * A * 4],
        b2[N_IMAGES * A * 4];
    static const float weights[NC] = {0.5f, 2, 1, 0.25f};
    dd_detection_batch b = {N_IMAGES, A, NC,       s->logits, s->deltas, anchor_boxes,
                            LEVELS,   3, s->boxes, s->labels, s->ignore, s->offsets};
    dd_criterion c = dd_criterion_defaults();
    c.class_weights = weights;
    dd_detection_loss one = {.dlogits = g1, .ddeltas = b1}, two = {.dlogits = g2, .ddeltas = b2};
    int threads = dd_threads();
    CHECK(!dd_threads_set(1) && !dd_detection_loss_run(&c, &b, &one), "%s", dd_message());
    CHECK(!dd_threads_set(3) && !dd_detection_loss_run(&c, &b, &two), "%s", dd_message());
    CHECK(!dd_threads_set(threads), "threads");
    CHECK(one.loss_cls == two.loss_cls && one.loss_box == two.loss_box &&
              !memcmp(g1, g2, sizeof g1) && !memcmp(b1, b2, sizeof b1),
          "threads change bits");
    c.assign = dd_assign_defaults(DD_ASSIGN_ATSS);
    check_criterion_gradient(s, &b, c, "focal", "giou");
    check_criterion_gradient(s, &b, c, "focal", "l2");
    check_criterion_gradient(s, &b, c, "focal", "smooth_l1");
    c = dd_criterion_defaults();
    for (int i = 0; i < 2; i++) {
        float *at = i ? &s->deltas[4001] : &s->logits[3001], was = *at;
        *at = NAN;
        CHECK(!isfinite(total_loss(&c, &b)), "a NaN is hidden");
        *at = was;
    }
    s->labels[2] = NC;
    CHECK(dd_detection_loss_run(&c, &b, &one) == DD_EVALUE, "label %d passes", NC);
    s->labels[2] = 2;
    dd_alloc_fail_at(1);
    CHECK(dd_detection_loss_run(&c, &b, &one) == DD_ENOMEM, "no memory");
    dd_alloc_fail_at(0);
}

/* ---- NMS and post-processing --------------------------------------------------------------- */

static void check_nms(void) {
    enum { N = 300 };
    static float boxes[4 * N], scores[N];
    static int32_t classes[N];
    static int64_t keep[N], want[N];
    static uint8_t dead[N];
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < N; i++) {
            boxes[4 * i] = draw(0, 50);
            boxes[4 * i + 1] = draw(0, 50);
            boxes[4 * i + 2] = boxes[4 * i] + draw(-2, 40);
            boxes[4 * i + 3] = boxes[4 * i + 1] + draw(-2, 40);
            scores[i] = (float)dd_stream_below(&draws, 50) / 50 - 0.3f; /* many ties */
            classes[i] = (int32_t)dd_stream_below(&draws, 3);
        }
        boxes[40] = NAN;
        scores[11] = NAN;
        scores[12] = -0.0f;
        scores[13] = 0.0f;
        memset(dead, 0, sizeof dead);
        dead[10] = dead[11] = 1;
        float threshold = draw(0, 1);
        int64_t n = 0, count = 0;
        for (;;) { /* the naive twin: the best that is left, then strike out */
            int best = -1;
            for (int i = 0; i < N; i++)
                if (!dead[i] && (best < 0 || scores[i] > scores[best]))
                    best = i;
            if (best < 0)
                break;
            want[n++] = best;
            dead[best] = 1;
            for (int i = 0; i < N; i++)
                if (!dead[i] && (round % 2 || classes[i] == classes[best]))
                    dead[i] = dd_box_iou(boxes + 4 * best, boxes + 4 * i) > threshold;
        }
        CHECK(!dd_nms(N, boxes, scores, round % 2 ? NULL : classes, threshold, N, keep, &count),
              "%s", dd_message());
        CHECK(count == n && !memcmp(keep, want, (size_t)n * sizeof *keep), "%lld kept, %lld wanted",
              (long long)count, (long long)n);
        CHECK(!dd_nms(N, boxes, scores, NULL, threshold, 3, keep, &count) && count <= 3,
              "capacity");
    }
    int64_t count;
    CHECK(dd_nms(N, boxes, scores, NULL, NAN, N, keep, &count) == DD_EVALUE, "threshold NaN");
    CHECK(dd_key_score(dd_score_key(-1.5f, 3)) == -1.5f && dd_key_index(dd_score_key(2, 7)) == 7,
          "keys");
}

static void check_postprocess(const scene *s) {
    enum { MAX = 50 };
    static float boxes[2][N_IMAGES * MAX * 4], scores[2][N_IMAGES * MAX];
    static int32_t classes[2][N_IMAGES * MAX], count[2][N_IMAGES];
    dd_letterbox_map maps[N_IMAGES];
    for (int n = 0; n < N_IMAGES; n++)
        maps[n] = (dd_letterbox_map){0.5f, 0, 20, 320, 240};
    dd_detect_input in = {N_IMAGES, A, NC, s->logits, s->deltas, anchor_boxes, maps};
    dd_detect_options o = dd_detect_defaults();
    o.max_det = MAX;
    for (int i = 0; i < 2; i++) {
        /* MAX candidates are too few for MAX detections, unless all others are suppressed */
        o.pre_nms = i ? 4096 : 700;
        dd_detections out = {count[i], boxes[i], scores[i], classes[i], NULL};
        CHECK(!dd_detect_postprocess(&o, &in, &out), "%s", dd_message());
    }
    for (int n = 0; n < N_IMAGES; n++) {
        CHECK(count[0][n] == MAX && count[1][n] == MAX, "%d detections", count[1][n]);
        for (int i = n * MAX; i < n * MAX + count[1][n]; i++) {
            const float *b = boxes[1] + 4 * i;
            CHECK(b[0] >= 0 && b[1] >= 0 && b[2] <= 320 && b[3] <= 240 && b[2] > b[0], "box");
            CHECK(scores[1][i] > 0.25f && (i == n * MAX || scores[1][i] <= scores[1][i - 1]),
                  "order");
            /* The best 700 contain all that the first 50 needed: a cut must not change them. */
            CHECK(scores[0][i] == scores[1][i] && classes[0][i] == classes[1][i], "cut at 700");
        }
    }
    o.conf = 1;
    dd_detections out = {count[0], boxes[0], scores[0], classes[0], NULL};
    CHECK(!dd_detect_postprocess(&o, &in, &out) && count[0][0] == 0 && boxes[0][0] == 0, "conf 1");
    o.conf = NAN;
    CHECK(dd_detect_postprocess(&o, &in, &out) == DD_EVALUE, "conf NaN passes");
    o.conf = 0.5f;
    maps[1].scale = 0;
    CHECK(dd_detect_postprocess(&o, &in, &out) == DD_EVALUE, "scale 0 passes");
}

int main(void) {
    static scene s;
    dd_stream_init(&draws, 7, 0, 0, DD_FOR_TEST);
    check_losses();
    check_sigmoid();
    check_sweep();
    make_anchors();
    make_scene(&s);
    check_assign(&s, DD_ASSIGN_TAL);
    check_assign(&s, DD_ASSIGN_ATSS);
    check_assign(&s, DD_ASSIGN_MAX_IOU);
    check_criterion(&s);
    check_nms();
    check_postprocess(&s);
    CHECK(dd_alloc_live() == 0, "%llu blocks are left", (unsigned long long)dd_alloc_live());
    return check_done("detect");
}
