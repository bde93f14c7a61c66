/* Inside the planner: what plan.c, match.c, the step files and run.c share.
 *
 * A step covers one or more nodes and runs as row stages: load (rows.c: zero halo, uint8, pending
 * batch norm and activation, pending batch-norm gradient) → compute (a kernel) → store (bias,
 * activation, residual, sums). It has phases with a barrier between them; a phase has units, and
 * what a unit computes never depends on the thread that runs it nor on how the rest is cut. */
#ifndef DD_GRAPH_STEPS_H
#define DD_GRAPH_STEPS_H

#include "graph/graph.h"
#include "graph/plan.h"
#include "kernels/kernels.h"
#include "ops/params.h"

enum { DD_STEP_NODES = 24, DD_STEP_TERMS = 8, DD_SLOTS = 16 };

/* Where a value's bytes are. */
typedef enum dd_place_kind {
    DD_AT_NONE = 0, /* never stored: pending, type only, or unwanted */
    DD_AT_ARENA,
    DD_AT_ENTRY, /* in the store */
    DD_AT_INPUT,
    DD_AT_OUTPUT, /* in the caller's output array */
    DD_AT_SEED,
    DD_AT_VECTOR, /* in the plan's own small vectors (saved statistics) */
} dd_place_kind;

/* How a consumer's load stage gets a value that is not stored. */
typedef enum dd_pending {
    DD_STORED = 0,
    DD_PENDING_U8,     /* (x - zero) · scale of the uint8 value `x` */
    DD_PENDING_AFFINE, /* act(x · scale[c] + shift[c]): batch norm `norm` of `x` */
    DD_PENDING_BN_DX,  /* d·p + x·q + r, d = dz · act'(x · scale + shift) */
    DD_PENDING_PARTS,  /* the inputs of the concatenation `parts`, side by side */
    DD_PENDING_NCHW,   /* `x` with its channels first */
} dd_pending;

typedef struct dd_pvalue {
    dd_type type;
    dd_place_kind place;
    int index;          /* ENTRY, INPUT, OUTPUT, SEED: which */
    size_t offset;      /* bytes from the place's start */
    int root;           /* the value whose buffer this one lies in; itself for most */
    size_t root_offset; /* bytes */
    int64_t pitch;      /* elements */
    int64_t image;      /* elements between images (dimension 0) */
    bool dense;         /* must have pitch == last dimension */
    bool needed;        /* some step reads its data */
    int first, last;    /* waves between which it lives */
    dd_pending pending;
    int x, dz, norm; /* of pending ones: value ids and the norm's record */
    int parts;       /* PENDING_PARTS: the concatenation, a node */
    dd_act act;
    float scale, zero; /* PENDING_U8 */
} dd_pvalue;

/* A batch norm: vectors of `c` floats in plan->vectors, sums of DD_SLOTS slots in plan->sums. */
typedef struct dd_norm {
    int node; /* batch_norm */
    int x;    /* its input */
    int c;
    bool batch; /* statistics of the batch; else of the store */
    double eps, momentum;
    int gamma, beta, running_mean, running_var; /* entries */
    size_t mean, rstd, scale, shift, p, q, r;   /* offsets in plan->vectors */
    size_t sums;                                /* offset in plan->sums: DD_SLOTS × 2 × c */
    int64_t count;                              /* pixels */
} dd_norm;

/* A set of output pixels of a convolution that meet the same taps: one for a forward convolution,
 * one a residue of the position by the stride for the gradient of its input. Output (j, i) of the
 * phase is pixel (y0 + j·out_step, x0 + i·out_step) and reads source row j·in_step + first_y +
 * t·dilation, column likewise. */
typedef struct dd_conv_phase {
    int y0, x0;
    int taps_y, taps_x;
    int first_y, first_x;
    size_t packed; /* offset in floats of its packed weights */
} dd_conv_phase;

enum { DD_MAX_PHASES = 16 };

typedef struct dd_conv {
    dd_conv_params p;
    int k_h, k_w, stride, dilation, groups;
    int pad_top, pad_left, pad_bottom, pad_right;
    int c_in, c_out; /* channels of x and y, all groups */
    int64_t n, h, w, oh, ow;
    bool depthwise, by_tap; /* by_tap: a segment a tap (groups, dilation) */
    bool spread;            /* by_tap, and depthwise: of dilated taps, stride 1 */
    bool planar;            /* x is PENDING_NCHW: a segment a row of a channel */
    int weight, bias;       /* store entries; bias -1 */
    dd_conv_phase forward, phases[DD_MAX_PHASES];
    int n_phases;
    bool uses_forward, uses_dx; /* which weights a step reads */
    int winograd;               /* side of the output tiles; 0: no Winograd */
    bool turned; /* of Winograd: a gradient's, from y to x; its weights OIHW with I and O, and both
                    axes, turned round */
    size_t packed, packed_dx; /* offsets in plan->packed */
    size_t packed_floats, packed_dx_floats;
} dd_conv;

typedef struct dd_term {
    int value;
    int upsample; /* nearest by this factor; 1 */
} dd_term;

/* The sums of a batch norm's gradient (bn_reduce), by a step of its own or in the store of the one
 * that makes dz. */
typedef struct dd_norm_gradient {
    int norm; /* -1: none */
    dd_act act;
    int dgamma, dbeta;             /* values that are stored; -1 */
    int dgamma_entry, dbeta_entry; /* entries whose gradient they are; -1 */
} dd_norm_gradient;

/* A 1×1 convolution and the batch norm behind it that a depthwise step computes again from their
 * narrow input instead of storing their result (step_expand.c). Both of its steps hold a copy. */
typedef struct dd_expansion {
    int conv; /* the 1×1's record; -1: none */
    int norm;
    dd_act act;
    size_t moments;                /* offset in plan->sums of the input's mean and covariance */
    size_t shift, mix_shift;       /* in plan->vectors */
    size_t packed, packed_dx, mix; /* in plan->packed: weights with the norm's scale; dx's own */
    /* of the backward step */
    int dw_entry;
    dd_norm_gradient reduction; /* of the norm between */
    size_t slots;               /* in plan->slots */
} dd_expansion;

struct dd_plan;
struct dd_run;

typedef struct dd_step {
    const char *pattern;
    void (*run)(const struct dd_run *, const struct dd_step *, int phase, int64_t unit, int thread);
    int64_t (*units)(const struct dd_plan *, const struct dd_step *, int phase, int threads);
    int n_phases;
    /* Packs weights that no dd_conv holds, where the store has changed since; NULL: none. */
    void (*prepare)(const struct dd_run *, const struct dd_step *, int thread);
    int nodes[DD_STEP_NODES], n_nodes;
    int at, order;  /* index of its last node: the order of steps; then that of making */
    bool late;      /* after the other steps of its node */
    int wave;       /* steps of a wave run between the same two barriers, in any order */
    size_t counter; /* index of phase 0 in a thread's row of plan->counters */
    bool backward;
    int reads[DD_STEP_NODES * 4], n_reads; /* stored values, for lifetimes */
    int writes[DD_STEP_NODES], n_writes;
    /* convolutions */
    int conv;                   /* index in plan->convs; -1 */
    int x, y, residual;         /* value ids; -1 */
    dd_act act, act_after;      /* before and after the residual */
    bool act_first;             /* of a matrix product with a residual: act it is, no act_after */
    int norm;                   /* norm whose sums the store makes; -1 */
    dd_norm_gradient reduction; /* of dx, made in the store */
    size_t packed;              /* of prepare: offset in plan->packed */
    /* chain: conv is the depthwise one, x the source, (y, residual, act, act_after) the last's */
    int expand, project; /* conv records of the 1×1 before and after it; -1 */
    int front;           /* of the stem before the expansion; -1 */
    dd_act act_front, act_expand, act_depthwise;
    int dy, dx, dx_residual, dw, db; /* backward pair: values (dw, db: graph values, -1 unwanted) */
    int dw_entry, db_entry; /* store entries whose gradient they are; -1: the values are stored */
    size_t db_sums;         /* offset in plan->sums of the bias gradient, n_slots × c_out */
    int n_slots;
    int strip;                    /* rows at a time */
    bool by_pieces;               /* of pixels instead */
    bool halves;                  /* loads and stores its maps in either type (stores.c) */
    int pixels;                   /* chain: between two of its stages at a time */
    size_t planes, planes_floats; /* winograd: its part of plan->slots */
    int64_t between_floats;       /* chain: of the pixels between two stages */
    int pooled;                   /* conv_pool: the value between, never stored */
    dd_expansion expansion;       /* between x and the depthwise convolution */
    /* sums */
    dd_term terms[DD_STEP_TERMS];
    int n_terms;
    bool plain;           /* nodes[0]'s own C: reads and writes what the node does */
    size_t strided_bytes; /* plain: of its scratch, for values whose images lie apart */
    size_t scratch;       /* bytes a thread */
    int64_t macs, bytes;
    double seconds;
} dd_step;

struct dd_plan {
    dd_graph *graph; /* a copy: plans outlive their caller's graph */
    dd_plan_options options;
    const dd_kernels_table *kernels;
    dd_pvalue *values; /* the graph's, then second rows of pending values that are stored too */
    size_t n_values;
    int **readers; /* a value: nodes that read its data */
    int *n_readers, *reader_pool;
    bool *taken; /* a node: covered by a step */
    bool *view;  /* a node: its results are windows, nothing runs */
    dd_step *steps;
    size_t n_steps, steps_capacity;
    int n_forward_steps;
    int wave_floor; /* while waves are made: the first that the step at hand can join */
    dd_conv *convs;
    size_t n_convs, convs_capacity;
    dd_norm *norms;
    size_t n_norms, norms_capacity;
    int *norm_of; /* a node: its norm's record or -1 */
    int *conv_of; /* a node: its conv's record or -1 */
    size_t arena_bytes;
    size_t vectors_size, sums_size; /* floats, doubles */
    size_t packed_size,
        slots_size; /* floats; the slots of weight gradients serve one step at a time */
    float *vectors, *packed, *slots;
    double *sums;
    uint64_t packed_version, packed_store;
    size_t scratch_bytes; /* of one thread: the largest of all steps */
    char *scratch;
    int room_threads; /* that scratch and counters have room for */
    float *zero_seed;
    size_t zero_seed_floats;
    void **data;               /* a value: its address in the present run */
    _Atomic int64_t *counters; /* a row a thread, a phase: units taken of the thread's share */
    size_t n_counters;         /* of a row */
    bool profile;
};

/* The first failure of a run, kept for the thread that called it. */
typedef struct dd_run_failure {
    _Atomic int status;
    char message[1024];
} dd_run_failure;

/* What a step sees while it runs. */
typedef struct dd_run {
    struct dd_plan *plan;
    const dd_binding *binding;
    dd_run_failure *failure;
} dd_run;

/* Notes a failed operator with this thread's message; the run goes on to its end. */
void dd_run_fail(const dd_run *run, dd_status status);

/* ---- rows.c: the load stage ---------------------------------------------------------------- */

/* Address of (image n, map row y, pixel x) of a stored rank-4 value, floats or not. */
void *dd_pixels(const dd_run *run, int value, int64_t n, int64_t y, int64_t x);
/* The same of floats, pixel 0. */
float *dd_row(const dd_run *run, int value, int64_t n, int64_t y);

/* A step's `units` where a unit is some rows of its y: one for one thread, else four a thread. */
int64_t dd_row_units(const dd_plan *plan, const dd_step *s, int phase, int threads);
/* True where the value is stored, not pending. */
bool dd_is_stored(const dd_plan *plan, int value);
/* True where the value's pixels can be read in place: stored floats. Known once all steps are. */
bool dd_is_floats(const dd_plan *plan, int value);
/* `count` dense pixels from (n, y, x) of any value, pending or not, to `out` (C floats each). */
void dd_load_pixels(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t count,
                    float *out);
/* The same with `pitch` floats between pixels. */
void dd_load_pixels_at(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t count,
                       float *out, int64_t pitch);
/* Adds what a load of these pixels will read to what a kernel fetches ahead. */
void dd_ahead_add(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t count,
                  dd_ahead *ahead);
/* Asks for a few lines of it: as many as the memory system takes without waiting. */
void dd_ahead_some(dd_ahead *ahead);
/* Rows first..first+rows-1 of image n with `left` and `right` zero pixels around, dense. Rows
 * outside the map are zero. */
void dd_load_strip(const dd_run *run, int value, int64_t n, int64_t first, int64_t rows,
                   int64_t left, int64_t right, float *out);
/* The same of a value with its channels first, as planes: each row is C rows of left + W + right
 * floats. */
void dd_load_planes(const dd_run *run, int value, int64_t n, int64_t first, int64_t rows,
                    int64_t left, int64_t right, float *out);

/* The most parts of a PENDING_PARTS value. */
enum { DD_MAX_PARTS = 16 };
typedef struct dd_sources {
    const float *a[DD_MAX_PARTS];
    int ks[DD_MAX_PARTS];
} dd_sources;
/* True where a matrix product can read the value's pixels where they lie: stored, or parts of one
 * pitch. */
bool dd_is_in_place(const dd_plan *plan, int value);
/* Sets what of `g` concerns A: pixels from (n, y, x) on of a value in place. `s` must outlive g. */
void dd_gemm_source(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, dd_sources *s,
                    dd_gemm *g);
/* ---- conv_rows.c: a dense convolution of few channels, row by row -------------------------- */

typedef struct dd_conv_rows {
    const dd_run *run;
    const dd_conv *c;
    int x; /* its input, any value */
    int64_t n;
    dd_act act;
    float *ring;  /* dd_conv_rows_floats */
    int64_t made; /* source rows loaded; 0 at first */
} dd_conv_rows;
bool dd_conv_has_rows(const dd_conv *c);
int64_t dd_conv_rows_floats(const dd_conv *c);
/* Output row y of image n to `to`, pixels at a pitch of ldc; rows come in ascending order. */
void dd_conv_rows_make(dd_conv_rows *r, int64_t y, float *to, int64_t ldc);

void *dd_scratch(const dd_run *run, int thread);

/* ---- report.c ------------------------------------------------------------------------------ */

/* Multiply-adds and bytes of all steps, for the reports; once lifetimes and places are known. */
void dd_count_work(dd_plan *plan);

/* ---- stores.c: the store stage ------------------------------------------------------------- */

/* Chooses which maps are stored as bfloat16, once all steps are known. */
void dd_choose_halves(dd_plan *plan);
bool dd_is_half(const dd_plan *plan, int value);
/* Whether it goes past the caches. */
bool dd_is_streamed(const dd_plan *plan, int value);
/* Whether a value's pieces are computed in scratch and copied to their place: bfloat16, or floats
 * that go past the caches. */
bool dd_is_staged(const dd_plan *plan, int value);
/* Floats of scratch to reserve for a piece of `pixels`: 0 where it is surely computed in place. */
int64_t dd_piece_floats(const dd_plan *plan, int value, int64_t pixels);
/* Floats of scratch to reserve where `pixels` of a value are loaded unless they are floats. */
int64_t dd_load_floats(const dd_plan *plan, int value, int64_t pixels);
/* Where to compute the pixels of a stored value from (n, y, x) on: in place, or `scratch`. */
float *dd_piece_begin(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, float *scratch,
                      int64_t *pitch);
/* They are computed, and whatever else reads them has done so. */
void dd_piece_end(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t pixels,
                  const float *piece);
/* Stores pixels at any pitch, and writes no pad lane. */
void dd_store_pixels(const dd_run *run, int value, int64_t n, int64_t y, int64_t x, int64_t pixels,
                     const float *from, int64_t pitch);
/* At the end of a unit. */
void dd_pieces_done(const dd_run *run, int value);

/* ---- for the matchers ---------------------------------------------------------------------- */

dd_status dd_step_new(dd_plan *plan, const char *pattern, dd_step **step);
void dd_step_node(dd_plan *plan, dd_step *s, int node); /* covers it */
/* Notes that the step reads a value: the stored ones behind a pending one. */
void dd_step_reads(dd_plan *plan, dd_step *s, int value);
void dd_step_writes(dd_step *s, int value);
/* The one node that reads the value's data, or -1. */
int dd_sole_reader(const dd_plan *plan, int value);
bool dd_is_output(const dd_plan *plan, int value);
/* Takes an activation that alone reads the step's result into its store: s->act, s->y. */
void dd_take_activation(dd_plan *plan, dd_step *s);
/* Whether an output ("d:<input>") is written by the backward. */
bool dd_output_of_backward(const dd_plan *plan, size_t output);
/* Whether the node reads the data of its i-th input, not only its type. */
bool dd_reads_data(const dd_node *n, int i);
bool dd_pattern_on(const dd_plan *plan, int pattern);

/* A value's rows: rank 4 as it is; another rank as dims[0] images of one row (rank < 2: one). */
typedef struct dd_map {
    int64_t n, h, w, c;
} dd_map;
dd_map dd_map_of(const dd_type *type);

/* The rows [*begin, *end) of n_rows that unit `unit` of `units` covers. */
void dd_cut(int64_t n_rows, int64_t units, int64_t unit, int64_t *begin, int64_t *end);

/* ---- steps --------------------------------------------------------------------------------- */

enum {
#define DD_PATTERN(name) DD_PATTERN_##name,
#include "graph/steps.def"
#undef DD_PATTERN
    DD_PATTERNS
};

/* Tries to start a step at `node`; *matched tells. One a row of steps.def. */
#define DD_PATTERN(name)                                                                           \
    dd_status dd_match_##name(dd_plan *plan, const dd_store *store, int node, bool *matched);
#include "graph/steps.def"
#undef DD_PATTERN

dd_status dd_conv_record(dd_plan *plan, const dd_store *store, int node, int x, int y, int weight,
                         int bias, int *conv); /* -1 where the steps can't run it */
void dd_conv_pack(const dd_run *run, int conv, bool backward, int thread);
size_t dd_conv_pack_scratch(const dd_conv *conv); /* bytes */
int64_t dd_depthwise_pitch(const dd_conv *conv);
/* What goes by pieces: depthwise and 1×1 convolutions. Output rows [row, end) of all images, and
 * the bytes of scratch. */
bool dd_conv_by_pieces(const dd_conv *conv);
void dd_conv_pieces(const dd_run *run, const dd_step *s, int64_t row, int64_t end, int64_t unit,
                    float *scratch);
size_t dd_conv_pieces_scratch(const dd_plan *plan, const dd_step *s, const dd_conv *conv);
/* Phase 0 of a backward step, and the bytes of scratch that it takes. */
void dd_depthwise_backward_unit(const dd_run *run, const dd_step *s, int64_t unit, int thread);
size_t dd_depthwise_backward_scratch(const dd_plan *plan, const dd_step *s, const dd_conv *conv);
void dd_pointwise_backward_unit(const dd_run *run, const dd_step *s, int64_t unit, int thread);
size_t dd_pointwise_backward_scratch(const dd_plan *plan, const dd_step *s, const dd_conv *conv);
/* Follows a convolution's result through what its store can do: activation, residual. */
void dd_conv_epilogue(dd_plan *plan, dd_step *s, const dd_conv *conv);
/* Reserves room for the packed weights. */
void dd_conv_use(dd_plan *plan, dd_conv *conv);
/* A batch norm over the stored result: its sums are made in the store. */
void dd_conv_take_sums(dd_plan *plan, dd_step *s);
/* What else a backward step does to its dx: adds the other gradient of the same value; makes the
 * sums of the batch norm before it. */
void dd_conv_take_residual(dd_plan *plan, dd_step *s, const dd_conv *conv);
void dd_conv_take_reduction(dd_plan *plan, dd_step *s);
/* Adds the slots in order to the gradient of the weights: part `unit` of `units`. */
void dd_conv_dw_reduce(const dd_run *run, const dd_step *s, const dd_conv *conv, int64_t unit,
                       int64_t units);
/* ---- step_expand.c: what an expansion's depthwise steps call, piece by piece ---------------- */

/* Scratch of a piece of pixels: the narrow map, the wide one before and after its activation (one
 * and the same where the slope shows in the result), its gradient, sums that no slot has yet, dx.
 */
typedef struct dd_expanded {
    float *narrow, *before, *after, *gradient, *part, *dx;
    int64_t pitch; /* of wide pixels */
} dd_expanded;
/* Gives out scratch for pieces of up to `pixels`, or only counts its floats: scratch NULL. */
int64_t dd_expand_place(const dd_plan *plan, const dd_step *s, int64_t pixels, float *scratch,
                        dd_expanded *p);
/* The wide map's pixels from (n, y, x) on, by way of p->narrow. */
void dd_expand_pixels(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                      int64_t pixels, dd_act act, float *narrow, float *to, int64_t pitch);
/* The same in the backward, to p->after, which is returned. */
const float *dd_expand_again(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                             int64_t pixels, const dd_expanded *p);
/* Takes p->gradient, which the depthwise kernel made, back through activation and 1×1. */
void dd_expand_gradient(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t x,
                        int64_t pixels, const dd_expanded *p, dd_ahead *ahead);
/* Adds what was summed since to the slot. */
void dd_expand_add_part(const dd_run *run, const dd_step *s, const dd_expanded *p, int64_t slot);

/* Winograd's weights: floats of all planes; `gathered` holds the nine taps, packed. */
size_t dd_winograd_floats(const dd_kernels_table *kernels, const dd_conv *conv);
void dd_winograd_pack(const dd_kernels_table *kernels, const dd_conv *conv, const float *weight,
                      float *gathered, float *packed);
/* The activation that a matrix product applies. */
static inline dd_act dd_product_act(const dd_step *s) {
    return s->residual >= 0 && !s->act_first ? s->act_after : s->act;
}
/* Gives the Winograd steps of each wave, which run at once, planes of their own. */
void dd_winograd_places(dd_plan *plan);
bool dd_conv_pointwise(const dd_conv *conv); /* 1×1 of stride 1, no padding, one group */
const float *dd_conv_bias(const dd_run *run, const dd_conv *conv);
dd_status dd_norm_record(dd_plan *plan, int node, int *norm); /* -1 where the steps can't run it */
/* The store's entry whose gradient the value is, where nothing else reads it; else -1. */
int dd_gradient_entry(const dd_plan *plan, int value);
/* A step right after `node` that stores the pending value `from` as `value`. */
dd_status dd_sum_store(dd_plan *plan, int from, int value, int node);
bool dd_is_addition(const dd_plan *plan, const dd_node *n); /* of two values of one type */
/* The node's reduction; its stored results are noted as written by `s`, what it reads is not. */
dd_norm_gradient dd_norm_gradient_of(dd_plan *plan, dd_step *s, int node);
void dd_norm_gradient_begin(const dd_run *run, const dd_norm_gradient *r, int64_t slot);
/* Adds rows y..y+rows-1 of image n of dz. */
void dd_norm_gradient_rows(const dd_run *run, const dd_norm_gradient *r, int dz, int64_t n,
                           int64_t y, int64_t rows, int64_t slot);
/* Adds pixels x..x+pixels-1 from row y on, which lie at dz. */
void dd_norm_gradient_pixels(const dd_run *run, const dd_norm_gradient *r, const float *dz,
                             int64_t dz_pitch, int64_t n, int64_t y, int64_t x, int64_t pixels,
                             int64_t slot);
/* Adds the slots in order: gradients, and (p, q, r) for the loads of dx. */
void dd_norm_gradient_finish(const dd_run *run, const dd_norm_gradient *r, int64_t slots);
void dd_norm_finish(const dd_run *run, int norm); /* sums → mean, rstd, scale, shift */
/* The same of one channel from its batch's mean and variance. */
void dd_norm_set(const dd_run *run, int norm, int c, double mean, double var);
void dd_norm_static(const dd_run *run, int norm); /* running statistics → scale, shift */

#endif
