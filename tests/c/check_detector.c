/* The detector: what it finds is what the interpreter's outputs on the undeployed net say, by
 * another way round; its promises of ownership and failure. */
#include <math.h>
#include <pthread.h>

#include "check.h"
#include "detect/anchors.h"
#include "detect/decode.h"
#include "graph/interpret.h"
#include "image/resize.h"
#include "io/detector.h"
#include "model_files.h"

enum { W = 90, H = 50, MOST = 40 };

/* A picture with blocks of colour. */
static void draw(uint8_t *rgb) {
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            for (int c = 0; c < 3; c++)
                rgb[3 * (y * W + x) + c] = (uint8_t)((x / 7 * 37 + y / 5 * 59 + c * 83) % 256);
}

static dd_model *small_model(void) {
    net n;
    dd_model *m = NULL;
    make_net(&n);
    bytes file = make_file(&n, 1);
    net_must(dd_model_read((const char *)file.data, file.length, "x.pt", &m));
    bytes_free(&file);
    net_free(&n);
    return m;
}

/* Each step by itself: letterbox, interpreter, then scores and boxes of every anchor, best first,
 * without NMS (the options let every box stay). */
static int expected(const dd_model *m, const dd_pixels *image, float conf, dd_detection *found) {
    enum { A = SIDE / 8 * (SIDE / 8) * 2 };
    uint8_t square[SIDE * SIDE * 3];
    float logits[A * CLASSES], deltas[A * 4], anchors[A * 4];
    dd_fit fit;
    dd_interpreter *in = NULL;
    dd_pixels target = {square, SIDE, SIDE, 3 * SIDE};
    dd_type of_image = {DD_U8, 4, {1, SIDE, SIDE, 3}};
    net_must(dd_fit_make(image->width, image->height, SIDE, &fit));
    net_must(dd_letterbox(image, 1, &fit, &target));
    dd_array given = dd_array_dense(square, &of_image);
    net_must(dd_interpreter_create(m->graph, m->store, &of_image, 0, &in));
    net_must(dd_interpreter_forward(in, &given, 0));
    memcpy(logits, dd_interpreter_value(in, m->graph->outputs[0]).data, sizeof logits);
    memcpy(deltas, dd_interpreter_value(in, m->graph->outputs[1]).data, sizeof deltas);
    dd_interpreter_destroy(in);
    dd_anchor_rule_fill(&m->anchors, SIDE, SIDE, anchors);
    int n = 0;
    for (int i = 0; i < A * CLASSES; i++) {
        float score = 1 / (1 + expf(-logits[i]));
        double box[4];
        if (score <= conf)
            continue;
        dd_anchor_decode(anchors + 4 * (i / CLASSES), deltas + 4 * (i / CLASSES), box);
        double x0 = fmax((box[0] - fit.left) / fit.scale, 0),
               y0 = fmax((box[1] - fit.top) / fit.scale, 0);
        double x1 = fmin((box[2] - fit.left) / fit.scale, W),
               y1 = fmin((box[3] - fit.top) / fit.scale, H);
        if (x1 <= x0 || y1 <= y0)
            continue;
        int at = n < MOST ? n++ : MOST - 1; /* insertion; the worst falls off */
        if (at == MOST - 1 && n == MOST && found[at].score >= score)
            continue;
        for (; at && found[at - 1].score < score; at--)
            found[at] = found[at - 1];
        found[at] = (dd_detection){(float)x0, (float)y0, (float)x1, (float)y1, score, i % CLASSES};
    }
    return n;
}

static void check_finds_what_the_net_says(void) {
    uint8_t rgb[W * H * 3];
    dd_pixels image = {rgb, W, H, 3 * W};
    dd_detection found[MOST], wanted[MOST] = {{0}};
    dd_detect_options options = dd_detect_defaults();
    dd_detector *d = NULL;
    int32_t count = -1;
    draw(rgb);
    options.iou = 1; /* nothing suppresses anything */
    options.max_det = MOST;
    options.conf = 0.3f;
    dd_model *m = small_model();
    CHECK(dd_detector_create(m, 0, &d) == DD_OK, "%s", dd_message());
    CHECK(dd_detector_run(d, &image, &options, found, &count) == DD_OK, "%s", dd_message());
    int n = expected(m, &image, options.conf, wanted);
    CHECK(n == MOST && count == n, "%d detections, %d were expected", count, n);
    for (int i = 0; i < n && i < count; i++) {
        const dd_detection *a = &found[i], *b = &wanted[i];
        CHECK(a->cls == b->cls && fabsf(a->score - b->score) < 1e-5f &&
                  fabsf(a->x0 - b->x0) + fabsf(a->y0 - b->y0) + fabsf(a->x1 - b->x1) +
                          fabsf(a->y1 - b->y1) <
                      1e-2f,
              "%d: class %d at %g (%g %g %g %g), expected %d at %g (%g %g %g %g)", i, a->cls,
              (double)a->score, (double)a->x0, (double)a->y0, (double)a->x1, (double)a->y1, b->cls,
              (double)b->score, (double)b->x0, (double)b->y0, (double)b->x1, (double)b->y1);
    }
    /* The model may go before the detector, and a second look finds the same. */
    dd_model_destroy(m);
    memcpy(wanted, found, sizeof wanted);
    CHECK(dd_detector_run(d, &image, &options, found, &count) == DD_OK, "%s", dd_message());
    CHECK(!memcmp(wanted, found, sizeof wanted), "the second look differs");
    CHECK(dd_detector_run(d, &image, NULL, (dd_detection[300]){{0}}, &count) == DD_OK, "%s",
          dd_message());
    CHECK(count > 0 && count < 128 * CLASSES, "%d by default", count);
    dd_detector_destroy(d);
}

static void check_refusals(void) {
    uint8_t rgb[3] = {0};
    dd_pixels image = {rgb, 1, 1, 3}, empty = {rgb, 0, 1, 3};
    dd_detect_options options = dd_detect_defaults();
    dd_detection found[300];
    dd_detector *d = NULL;
    int32_t count = -7;
    dd_model *m = small_model();
    static const int sides[] = {-32, 1, 63, 8224, 1 << 30};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++)
        CHECK(dd_detector_create(m, sides[i], &d) == DD_EVALUE && !d, "side %d", sides[i]);
    CHECK(dd_detector_create(m, 32, &d) == DD_OK, "%s", dd_message());
    CHECK(dd_detector_run(d, &image, NULL, found, &count) == DD_OK, "%s", dd_message());
    count = -7;
    CHECK(dd_detector_run(d, &empty, NULL, found, &count) == DD_EVALUE && count == -7,
          "an empty one");
    options.conf = NAN;
    CHECK(dd_detector_run(d, &image, &options, found, &count) == DD_EVALUE && count == -7,
          "conf NaN");
    options = dd_detect_defaults();
    options.max_det = -1;
    CHECK(dd_detector_run(d, &image, &options, found, &count) == DD_EVALUE && count == -7,
          "max_det");
    dd_detector_destroy(d);
    d = NULL;
    m->n_classes--; /* names and outputs that are not as many */
    CHECK(dd_detector_create(m, 0, &d) == DD_EFORMAT && !d, "two names for three classes");
    m->n_classes++;
    m->anchors.n_scales = 1;
    CHECK(dd_detector_create(m, 0, &d) == DD_EFORMAT && !d, "half of the anchors");
    m->anchors.n_scales = 2;
    m->graph->output_names[1][0] = 'f';
    CHECK(dd_detector_create(m, 0, &d) == DD_EFORMAT && !d, "no output 'box'");
    dd_model_destroy(m);
}

/* From the file to the detections, each allocation failing in turn. */
static dd_status whole_run(const bytes *file, const dd_pixels *image) {
    dd_status status;
    dd_model *m = NULL;
    dd_detector *d = NULL;
    dd_detection found[300];
    int32_t count;
    DD_TRY_DONE(dd_model_read((const char *)file->data, file->length, "x.pt", &m));
    DD_TRY_DONE(dd_detector_create(m, 0, &d));
    DD_TRY_DONE(dd_detector_run(d, image, NULL, found, &count));
done:
    dd_detector_destroy(d);
    dd_model_destroy(m);
    return status;
}

static void check_each_allocation_failing(void) {
    uint8_t rgb[W * H * 3];
    dd_pixels image = {rgb, W, H, 3 * W};
    net n;
    draw(rgb);
    make_net(&n);
    bytes file = make_file(&n, 1);
    net_free(&n);
    dd_status status = DD_ENOMEM;
    for (uint64_t k = 1; status == DD_ENOMEM && k < 5000; k++) {
        uint64_t live = dd_alloc_live();
        dd_alloc_fail_at(k);
        status = whole_run(&file, &image);
        dd_alloc_fail_at(0);
        CHECK(status == DD_OK || status == DD_ENOMEM, "allocation %d: %s", (int)k, dd_message());
        CHECK(dd_alloc_live() == live, "allocation %d: %d blocks leak", (int)k,
              (int)(dd_alloc_live() - live));
    }
    CHECK(status == DD_OK, "the loop never ended");
    bytes_free(&file);
}

/* Several threads, each with a detector of its own over one model: they find the same. */
typedef struct looker {
    dd_detector *detector;
    const dd_pixels *image;
    dd_detection found[300];
    int32_t count;
    dd_status status;
} looker;

static void *look_often(void *context) {
    looker *l = context;
    for (int i = 0; i < 20 && l->status == DD_OK; i++)
        l->status = dd_detector_run(l->detector, l->image, NULL, l->found, &l->count);
    return NULL;
}

static void check_threads(void) {
    enum { LOOKERS = 3 };
    uint8_t rgb[W * H * 3];
    dd_pixels image = {rgb, W, H, 3 * W};
    static looker lookers[LOOKERS];
    pthread_t threads[LOOKERS];
    draw(rgb);
    dd_model *m = small_model();
    for (int i = 0; i < LOOKERS; i++) {
        lookers[i].image = &image;
        net_must(dd_detector_create(m, 0, &lookers[i].detector));
    }
    for (int i = 0; i < LOOKERS; i++)
        CHECK(pthread_create(&threads[i], NULL, look_often, &lookers[i]) == 0, "no thread");
    for (int i = 0; i < LOOKERS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < LOOKERS; i++) {
        CHECK(lookers[i].status == DD_OK && lookers[i].count > 0, "thread %d: status %d", i,
              lookers[i].status);
        CHECK(lookers[i].count == lookers[0].count &&
                  !memcmp(lookers[i].found, lookers[0].found,
                          (size_t)lookers[0].count * sizeof(dd_detection)),
              "thread %d found something else", i);
        dd_detector_destroy(lookers[i].detector);
    }
    dd_model_destroy(m);
}

static void check_anchor_rule(void) {
    dd_anchor_rule rule = dd_anchor_rule_default();
    int64_t levels[DD_ANCHOR_LIST + 1];
    static const int64_t at_320[] = {0, 4800, 6000, 6300};
    CHECK(dd_anchor_rule_levels(&rule, 320, 320, levels) == DD_OK, "%s", dd_message());
    CHECK(!memcmp(levels, at_320, sizeof at_320), "%d anchors at 320", (int)levels[3]);
    CHECK(dd_anchor_rule_levels(&rule, 33, 1, levels) == DD_OK && levels[3] == 3 * (5 + 3 + 2),
          "%d anchors in 33 x 1", (int)levels[3]);
    CHECK(dd_anchor_rule_levels(&rule, 0, 32, levels) == DD_EVALUE, "no rows");
    CHECK(dd_anchor_rule_levels(&rule, INT64_MAX, INT64_MAX, levels) == DD_EVALUE, "too many");
    rule.n_ratios = 0;
    CHECK(dd_anchor_rule_levels(&rule, 32, 32, levels) == DD_EVALUE, "no ratios");
    rule.n_ratios = DD_ANCHOR_LIST + 1;
    CHECK(dd_anchor_rule_levels(&rule, 32, 32, levels) == DD_EVALUE, "17 ratios");
    rule = dd_anchor_rule_default();
    rule.strides[1] = 0;
    CHECK(dd_anchor_rule_levels(&rule, 32, 32, levels) == DD_EVALUE, "stride 0");
    rule.strides[1] = 16;
    rule.base = NAN;
    CHECK(dd_anchor_rule_levels(&rule, 32, 32, levels) == DD_EVALUE, "base NaN");
}

int main(void) {
    check_finds_what_the_net_says();
    check_refusals();
    check_each_allocation_failing();
    check_threads();
    check_anchor_rule();
    return check_done("detector");
}
