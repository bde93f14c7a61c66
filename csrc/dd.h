/* deepseek_det's C core: all that a C program, or the Python binding, may call.
 *
 * Include this file, from C or C++, and link libdeepseek_det (examples/c/README.md says how it is
 * built and found). Headers that are not listed here are the core's own affair and change without
 * notice.
 *
 * ---- what there is, and in which order it is used --------------------------------------------
 *
 *   store     all parameters of a model in one flat float array, by name         graph/store.h
 *   graph     values and nodes in topological order; knows no sizes              graph/graph.h
 *   op        the table of operators that nodes are made of                      ops/op.h
 *   passes    graph in, graph out: dd_graph_differentiate(), dd_graph_deploy()   graph/autodiff.h,
 *                                                                                graph/rewrite.h
 *   plan      the graph for given sizes: steps, one arena, work cut for threads  graph/plan.h
 *   optimizer one fused pass over the flat gradient, moments and average         graph/optim.h
 *   model     a model file: graph, store, class names, anchors                   io/model_file.h
 *   detector  a model deployed and planned; image in, boxes out                  io/detector.h
 *   detect/   anchors, assignment, losses, decoding, NMS: plain arrays in and out
 *   image/    letterbox, warps, colour, composed training samples: 8-bit RGB views
 *   evaluate/ COCO and VOC figures, masks; the strict JSON reader that they stand on
 *
 * To detect: dd_model_load(), dd_detector_create(), and per image dd_detector_run(); examples/c has
 * the whole program. What it finds is what Python's Detector.predict finds on the same pixels.
 *
 * To infer: build a graph over a store (or read one with dd_graph_from_json()), deploy it, plan it
 * for the input's type, bind memory, dd_plan_forward(). To train: differentiate the graph, plan the
 * result, and per batch dd_plan_forward(), dd_detection_loss_run() or a loss of your own on the
 * outputs, dd_plan_backward() with the loss's gradients as seeds, dd_optim_apply(). The interpreter
 * (graph/interpret.h) runs the same graphs slowly and plainly: it says what is right.
 *
 * ---- data ------------------------------------------------------------------------------------
 *
 * Activations are (N, H, W, C), convolution weights (O, C / groups, kh, kw). Arrays that go in and
 * out are dense; inside, a row may have a pitch (base/tensor.h). Boxes are x0 y0 x1 y1 in pixels,
 * half-open. A type in a graph may leave sizes open (-1); a plan's types are complete.
 *
 * ---- errors ----------------------------------------------------------------------------------
 *
 * What can fail returns a dd_status, and leaves its results untouched when it fails. dd_message()
 * then says "who: what came, what was needed", for this thread, until its next failure. Nothing
 * here calls exit() or abort() on bad input; a wrong pointer is the caller's own bug. An allocation
 * that fails is DD_ENOMEM, never a crash, and nothing leaks.
 *
 * ---- ownership -------------------------------------------------------------------------------
 *
 * `create`, `copy`, `from_json` and other results through a pointer to pointer are the caller's, to
 * be given to the `destroy` of their noun (NULL is allowed) or, for plain memory, to dd_free().
 * Everything else is borrowed for the call. A graph refers to a store by entry numbers and keeps no
 * pointer; a plan keeps its own copy of the graph and none of the store or the arena, which come
 * with each dd_binding. So the order of destruction is free, and graphs for training, deployment
 * and tapping may share one store. An interpreter borrows graph and store for its life; a detector
 * borrows nothing of its model.
 *
 * ---- threads ---------------------------------------------------------------------------------
 *
 * The core has one pool of threads a process (base/threads.h), sized by affinity and container
 * quota, by DD_NUM_THREADS where the binding reads it, or by dd_threads_set(). Any thread may call
 * anything, but one object is used by one thread at a time: guard a model (its store, plans and
 * arena) or a detector by one mutex. Objects that are only read may be shared: several detectors
 * may be made of one model, and run in threads of their own, where they take turns at the pool.
 * Results have the same bits for any number of threads. After fork() the child starts a pool of its
 * own at its first call. dd_cancel_set(true) makes running and later calls that say so end with
 * DD_ECANCELED, soon.
 *
 * ---- instruction sets ------------------------------------------------------------------------
 *
 * Kernels are chosen once, by the CPU and DD_ISA in the environment (base/cpu.h). Bits may differ
 * between levels, never between runs on one level. */

/* clang-format off */
/* ---- an example: the function of the same name in tests/c/check_public.c, word for word ------
 *
 *     // y (1, h, w, 8) = relu(conv(x (1, h, w, 3), filters (8, 3, 3, 3))), all dense.
 *     static dd_status filter_image(float *x, int64_t h, int64_t w, const float *filters, float *y) {
 *         dd_type any_size = {DD_F32, 4, {-1, -1, -1, 3}}, of_x = {DD_F32, 4, {1, h, w, 3}};
 *         dd_type of_filters = {DD_F32, 4, {8, 3, 3, 3}};
 *         dd_conv_params same = {.pads = {4, {1, 1, 1, 1}}, .groups = 1};
 *         dd_unary_params relu = {.kind = DD_RELU};
 *         dd_store *store = NULL;
 *         dd_graph *graph = NULL;
 *         dd_plan *plan = NULL;
 *         void *arena = NULL;
 *         int entry, in[2], conv, out;
 *         dd_status status;
 *
 *         DD_TRY_DONE(dd_store_create(&store));
 *         DD_TRY_DONE(dd_store_add(store, "filters", DD_TRAINABLE, &of_filters, true, &entry));
 *         memcpy(dd_store_data(store, entry), filters, 8 * 3 * 3 * 3 * sizeof *filters);
 *         dd_store_touch(store); // values were written from outside
 *
 *         DD_TRY_DONE(dd_graph_create(&graph));
 *         DD_TRY_DONE(dd_graph_input(graph, "x", &any_size, &in[0]));
 *         DD_TRY_DONE(dd_graph_entry(graph, store, entry, &in[1]));
 *         DD_TRY_DONE(dd_graph_node(graph, &dd_op_conv, "conv", &same, in, 2, 0, &conv, NULL));
 *         DD_TRY_DONE(dd_graph_node(graph, &dd_op_unary, "relu", &relu, &conv, 1, 0, &out, NULL));
 *         DD_TRY_DONE(dd_graph_output(graph, "y", out));
 *
 *         DD_TRY_DONE(dd_plan_create(graph, store, &of_x, NULL, &plan));
 *         DD_TRY_DONE(dd_alloc(dd_plan_arena_bytes(plan), &arena));
 *         dd_type of_y = dd_plan_output_type(plan, 0);
 *         dd_array given = dd_array_dense(x, &of_x), wanted = dd_array_dense(y, &of_y);
 *         dd_binding binding = {.store = store, .arena = arena, .inputs = &given, .outputs = &wanted};
 *         DD_TRY_DONE(dd_plan_forward(plan, &binding)); // as often as you like
 *     done:
 *         dd_free(arena);
 *         dd_plan_destroy(plan);
 *         dd_graph_destroy(graph);
 *         dd_store_destroy(store);
 *         return status;
 *     }
 */
/* clang-format on */

#ifndef DD_H
#define DD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "base/cpu.h"
#include "base/cpus.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/tensor.h"
#include "base/threads.h"

#include "detect/anchors.h"
#include "detect/assign.h"
#include "detect/boxes.h"
#include "detect/criterion.h"
#include "detect/decode.h"
#include "detect/losses.h"
#include "detect/match.h"
#include "detect/nms.h"

#include "image/augment.h"
#include "image/order.h"
#include "image/pixels.h"
#include "image/resize.h"
#include "image/warp.h"

#include "evaluate/coco.h"
#include "evaluate/coco_file.h"
#include "evaluate/coco_order.h"
#include "evaluate/confusion.h"
#include "evaluate/id_map.h"
#include "evaluate/json.h"
#include "evaluate/mask.h"
#include "evaluate/mask_file.h"
#include "evaluate/oks.h"
#include "evaluate/points_file.h"
#include "evaluate/region.h"
#include "evaluate/voc.h"

#include "ops/op.h"
#include "ops/params.h"

#include "graph/autodiff.h"
#include "graph/channels.h"
#include "graph/graph.h"
#include "graph/interpret.h"
#include "graph/machine.h"
#include "graph/optim.h"
#include "graph/plan.h"
#include "graph/rewrite.h"
#include "graph/store.h"

#include "io/checksum.h"
#include "io/detector.h"
#include "io/model_file.h"
#include "io/torch_file.h"

#ifdef __cplusplus
}
#endif

#endif
