/* Only composition: the letterbox (image/resize.h), the plan (graph/plan.h), decoding and NMS
 * (detect/decode.h) and the anchors (detect/anchors.h) are the functions that Python calls, too; so
 * equal bits need no second implementation to be kept equal.
 *
 * One size and one image at a time keep it small: a plan, its arena and the buffers are made once,
 * and a run takes memory only for NMS. Results do not depend on batches (a plan's promise), so
 * nothing is lost but the overhead of small images on many cores. Another size is another
 * detector; the model may be shared. */
#include "io/detector.h"

#include <string.h>

#include "base/memory.h"
#include "graph/plan.h"
#include "graph/rewrite.h"
#include "image/resize.h"

enum { STEP = 32 }; /* image sizes are multiples: the coarsest level's stride */

struct dd_detector {
    dd_store *store; /* of the deployed network */
    dd_plan *plan;
    void *arena;
    int side, cls, box; /* the image's; the outputs' numbers */
    int64_t anchors, classes;
    uint8_t *pixels;                /* (1, side, side, 3) */
    float *logits, *deltas, *boxes; /* (A, classes), (A, 4) of the net; (A, 4) the anchors */
    float *found_boxes, *scores;    /* (max_det, 4), (max_det): one run's results */
    int32_t *found_classes;
    size_t boxes_capacity, scores_capacity, classes_capacity;
};

/* By name: the order of a graph's outputs is its maker's business. */
static int output_number(const dd_graph *g, const char *name) {
    for (size_t i = 0; i < g->n_outputs; i++)
        if (strcmp(g->output_names[i], name) == 0)
            return (int)i;
    return -1;
}

/* Whether an output is f32 (1, anchors, last). */
static bool output_is(const dd_plan *plan, int output, int64_t anchors, int64_t last) {
    dd_type wanted = {DD_F32, 3, {1, anchors, last}}, is = dd_plan_output_type(plan, output);
    return dd_type_equal(&is, &wanted);
}

/* Plans `graph` and checks that it is a detector's. A net that has not met its data has no names,
 * and one class. */
static dd_status make_plan(dd_detector *d, const dd_graph *graph, const dd_model *model) {
    dd_type of_image = {DD_U8, 4, {1, d->side, d->side, 3}};
    d->cls = output_number(graph, "cls");
    d->box = output_number(graph, "box");
    if (graph->n_outputs != 2 || d->cls < 0 || d->box < 0 || graph->n_inputs != 1)
        return dd_fail(DD_EFORMAT,
                       "detector: a net of %zu inputs and %zu outputs came; one input and the "
                       "outputs 'cls' and 'box' are needed",
                       graph->n_inputs, graph->n_outputs);
    DD_TRY(dd_plan_create(graph, d->store, &of_image, NULL, &d->plan));
    d->classes = model->n_classes ? model->n_classes : 1;
    if (!output_is(d->plan, d->cls, d->anchors, d->classes) ||
        !output_is(d->plan, d->box, d->anchors, 4))
        return dd_fail(
            DD_EFORMAT,
            "detector: the outputs are not (1, %lld, %lld) and (1, %lld, 4), as %d class "
            "names and the anchors need",
            (long long)d->anchors, (long long)d->classes, (long long)d->anchors, model->n_classes);
    return DD_OK;
}

/* Anchors of a fixed size are constants of the detector. */
static dd_status make_buffers(dd_detector *d, const dd_anchor_rule *rule) {
    size_t anchors = (size_t)d->anchors, side = (size_t)d->side;
    DD_TRY(dd_alloc(dd_plan_arena_bytes(d->plan), &d->arena));
    DD_TRY(dd_alloc(side * side * 3, &d->pixels));
    DD_TRY(dd_alloc_array(anchors * (size_t)d->classes, sizeof(float), &d->logits));
    DD_TRY(dd_alloc_array(anchors * 4, sizeof(float), &d->deltas));
    DD_TRY(dd_alloc_array(anchors * 4, sizeof(float), &d->boxes));
    dd_anchor_rule_fill(rule, d->side, d->side, d->boxes);
    return DD_OK;
}

dd_status dd_detector_create(const dd_model *model, int imgsz, dd_detector **detector) {
    dd_status status;
    dd_detector *d = NULL;
    dd_graph *graph = NULL;
    int64_t levels[DD_ANCHOR_LIST + 1];
    int side = imgsz ? imgsz : model->imgsz;
    if (side < STEP || side % STEP || side > DD_LETTERBOX_MAX_SIDE)
        return dd_fail(DD_EVALUE, "detector: imgsz is %d, a multiple of %d up to %d was needed",
                       side, STEP, DD_LETTERBOX_MAX_SIDE);
    DD_TRY_DONE(dd_alloc_array(1, sizeof *d, &d));
    d->side = side;
    DD_TRY_DONE(dd_anchor_rule_levels(&model->anchors, side, side, levels));
    d->anchors = levels[model->anchors.n_strides];
    DD_TRY_DONE(dd_graph_deploy(model->graph, model->store, &graph, &d->store));
    /* The plan keeps a copy of the graph; packed weights come with the first run. */
    DD_TRY_DONE(make_plan(d, graph, model));
    DD_TRY_DONE(make_buffers(d, &model->anchors));
    *detector = d;
    d = NULL;
done:
    dd_graph_destroy(graph);
    dd_detector_destroy(d);
    return status;
}

/* Also for one whose making failed half-way: what is not there yet is NULL. */
void dd_detector_destroy(dd_detector *d) {
    if (!d)
        return;
    dd_plan_destroy(d->plan);
    dd_store_destroy(d->store);
    dd_free(d->arena);
    dd_free(d->pixels);
    dd_free(d->logits);
    dd_free(d->deltas);
    dd_free(d->boxes);
    dd_free(d->found_boxes);
    dd_free(d->scores);
    dd_free(d->found_classes);
    dd_free(d);
}

/* The letterboxed image, through the net. */
static dd_status look(dd_detector *d, const dd_pixels *image, const dd_fit *fit) {
    dd_pixels square = {d->pixels, d->side, d->side, 3 * (ptrdiff_t)d->side};
    DD_TRY(dd_letterbox(image, 1, fit, &square));
    dd_type of_image = {DD_U8, 4, {1, d->side, d->side, 3}};
    dd_type of_cls = dd_plan_output_type(d->plan, d->cls),
            of_box = dd_plan_output_type(d->plan, d->box);
    dd_array in = dd_array_dense(d->pixels, &of_image), out[2];
    out[d->cls] = dd_array_dense(d->logits, &of_cls);
    out[d->box] = dd_array_dense(d->deltas, &of_box);
    dd_binding binding = {.store = d->store, .arena = d->arena, .inputs = &in, .outputs = out};
    return dd_plan_forward(d->plan, &binding);
}

dd_status dd_detector_run(dd_detector *d, const dd_pixels *image, const dd_detect_options *options,
                          dd_detection *found, int32_t *count) {
    dd_detect_options o = options ? *options : dd_detect_defaults();
    dd_fit fit;
    int32_t n = 0;
    DD_TRY(dd_pixels_check(image, "detector"));
    DD_TRY(dd_fit_make(image->width, image->height, d->side, &fit));
    size_t room = o.max_det > 0 ? (size_t)o.max_det : 0; /* the core refuses what is out of range */
    if (room > 1 << 20)
        room = 0;
    DD_TRY(dd_reserve(&d->found_boxes, &d->boxes_capacity, 4 * room, sizeof(float)));
    DD_TRY(dd_reserve(&d->scores, &d->scores_capacity, room, sizeof(float)));
    DD_TRY(dd_reserve(&d->found_classes, &d->classes_capacity, room, sizeof(int32_t)));
    DD_TRY(look(d, image, &fit));
    /* Rounded to float as Python's rows of a map are: the boxes' last bits depend on it. */
    dd_letterbox_map map = {(float)fit.scale, (float)fit.left, (float)fit.top, (float)image->width,
                            (float)image->height};
    dd_detect_input in = {.images = 1,
                          .anchors = d->anchors,
                          .classes = d->classes,
                          .logits = d->logits,
                          .deltas = d->deltas,
                          .anchor_boxes = d->boxes,
                          .maps = &map};
    dd_detections out = {
        .count = &n, .boxes = d->found_boxes, .scores = d->scores, .classes = d->found_classes};
    DD_TRY(dd_detect_postprocess(&o, &in, &out));
    /* Only now is anything written to the caller. */
    for (int32_t i = 0; i < n; i++) {
        const float *b = d->found_boxes + 4 * i;
        found[i] = (dd_detection){b[0], b[1], b[2], b[3], d->scores[i], d->found_classes[i]};
    }
    *count = n;
    return DD_OK;
}
