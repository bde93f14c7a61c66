/* Matrix products: C = act(A·B + bias + residual), and C += Aᵀ·B for weight gradients.
 *
 * M, K, N: rows of A, inner length, columns. A tile is MR rows by NV vectors of C in registers.
 * The innermost loop loads NV vectors of B and broadcasts MR numbers of A for MR·NV products; a
 * tile with MR·NV near the register count makes it bound by arithmetic. The tile is written once
 * and instantiated for every size up to TILES' limits, so that remainders of M and N run at
 * (nearly) full speed as well: M is cut evenly (16 rows are 8 + 8, not 14 + 2), and the last
 * panel of N is narrower and ends in a masked store.
 *
 * Every element is one chain of fused multiply-adds, from the bias (and C's old value where it
 * accumulates) on in the order of s, k; then come residual and activation. Aᵀ·B goes on from C in
 * the order of m. That holds on every level: all give the same bits, whatever the tile.
 *
 * K is not blocked: a panel of K·MAX_NV vectors streams from the second-level cache as fast as a
 * tile consumes it. */
#include "kernels/activation.h"
#include "kernels/kernels.h"
#include "kernels/loops.h"
#include "simd/simd.h"

/* Rows of a tile by its vectors. What counts is enough independent sums (8 at least, so that the
 * units never wait for a result) and few loads a product; one register more than there is, and
 * the speed halves. A tile of one vector is bound by its broadcasts; 20 rows divide the maps of
 * common image sizes. Measured: docs/add_a_kernel.md. */
#if V_REGISTERS >= 32
enum { MAX_NV = 5, MAX_ACC = 28 };
#define ROWS_1 20
#define ROWS_2 14
#define ROWS_3 9
#define ROWS_4 6
#define ROWS_5 5
#elif VL > 1
enum { MAX_NV = 3, MAX_ACC = 12 };
#define ROWS_1 12
#define ROWS_2 6
#define ROWS_3 4
#else /* the scalar build is read for its results, not for its speed */
enum { MAX_NV = 2, MAX_ACC = 8 };
#define ROWS_1 4
#define ROWS_2 4
#endif

/* X(1, nv) X(2, nv) ... X(rows, nv) */
#define UP_TO_4(X, nv) X(1, nv) X(2, nv) X(3, nv) X(4, nv)
#define UP_TO_5(X, nv) UP_TO_4(X, nv) X(5, nv)
#define UP_TO_6(X, nv) UP_TO_5(X, nv) X(6, nv)
#define UP_TO_9(X, nv) UP_TO_6(X, nv) X(7, nv) X(8, nv) X(9, nv)
#define UP_TO_12(X, nv) UP_TO_9(X, nv) X(10, nv) X(11, nv) X(12, nv)
#define UP_TO_14(X, nv) UP_TO_12(X, nv) X(13, nv) X(14, nv)
#define UP_TO_17(X, nv) UP_TO_14(X, nv) X(15, nv) X(16, nv) X(17, nv)
#define UP_TO_20(X, nv) UP_TO_17(X, nv) X(18, nv) X(19, nv) X(20, nv)
#define UP_TO_(rows, X, nv) UP_TO_##rows(X, nv)
#define UP_TO(rows, X, nv) UP_TO_(rows, X, nv)

#if V_REGISTERS >= 32
#define TILES(X)                                                                                   \
    UP_TO(ROWS_1, X, 1)                                                                            \
    UP_TO(ROWS_2, X, 2) UP_TO(ROWS_3, X, 3) UP_TO(ROWS_4, X, 4) UP_TO(ROWS_5, X, 5)
static const int tile_rows[MAX_NV + 1] = {0, ROWS_1, ROWS_2, ROWS_3, ROWS_4, ROWS_5};
#elif VL > 1
#define TILES(X) UP_TO(ROWS_1, X, 1) UP_TO(ROWS_2, X, 2) UP_TO(ROWS_3, X, 3)
static const int tile_rows[MAX_NV + 1] = {0, ROWS_1, ROWS_2, ROWS_3};
#else
#define TILES(X) UP_TO(ROWS_1, X, 1) UP_TO(ROWS_2, X, 2)
static const int tile_rows[MAX_NV + 1] = {0, ROWS_1, ROWS_2};
#endif
enum { MAX_MR = ROWS_1 };

/* What a block of A may take: it shares the first-level cache with a panel of B or, with long K,
 * lies in the second one. */
enum { BLOCK_FLOATS = 8192 };

/* Vectors of a panel for a product of `vectors` vectors of columns. Its rows come from tile_rows,
 * so a last panel of one vector would leave too few sums in flight: such cuts come last. */
static int panel_vectors(int vectors) {
#if V_REGISTERS >= 32
    static const int widths[] = {4, 5, 3};
    if (vectors <= MAX_NV)
        return vectors;
    for (int i = 0; i < 3; i++)
        if (vectors % widths[i] == 0)
            return widths[i];
    for (int i = 0; i < 3; i++)
        if (vectors % widths[i] > 1)
            return widths[i];
    return 4;
#elif VL == 1
    return vectors <= MAX_NV ? vectors : MAX_NV;
#else
    if (vectors <= MAX_NV)
        return vectors;
    if (vectors % 3 == 0)
        return 3;
    return vectors % 2 == 0 || vectors % 3 == 1 ? 2 : 3;
#endif
}

static int vectors_of(int n) {
    return (n + VL - 1) / VL;
}

static int min_int(int a, int b) {
    return a < b ? a : b;
}

int DD_NAME(gemm_f32_panel)(int n) {
    return panel_vectors(vectors_of(n)) * VL;
}

size_t DD_NAME(gemm_f32_packed)(int64_t rows, int n) {
    return (size_t)rows * (size_t)(vectors_of(n) * VL);
}

/* Panel after panel, each as `rows` rows of its width; the lanes behind column n are zero. Panels
 * before the last are full, so the panel of column c starts at c · rows. */
void DD_NAME(gemm_f32_pack)(const float *b, int64_t row_step, int64_t column_step, int64_t rows,
                            int n, float *packed) {
    const int panel = DD_NAME(gemm_f32_panel)(n), padded = vectors_of(n) * VL;
    for (int first = 0; first < padded; first += panel) {
        const int width = min_int(panel, padded - first), real = min_int(panel, n - first);
        for (int64_t row = 0; row < rows; row++, packed += width) {
            const float *source = b + row * row_step + first * column_step;
            for (int i = 0; i < real; i++)
                packed[i] = source[i * column_step];
            for (int i = real; i < width; i++)
                packed[i] = 0.0f;
        }
    }
}

/* ---- A · B --------------------------------------------------------------------------------- */

/* A column of tiles, one below the other: what is left of dd_gemm once M and N are cut. Pointers
 * stand at the first tile. */
typedef struct tile_job {
    const dd_gemm *g;
    int64_t tiles, a_offset;
    const float *b;
    float *c;
    const float *bias, *residual; /* or NULL */
    int last;                     /* real lanes of the last vector */
} tile_job;

/* Vector v of NV: whole, but for the last one. */
V_INLINE vf load_of(const float *row, int v, int nv, int last) {
    return v == nv - 1 ? v_load_n(row + v * VL, last) : v_load(row + v * VL);
}

/* acc[i][v] += Σ_s Σ_k A_s[i, k] · B[s, k, v]. Rows are addressed from one pointer for each three
 * (base, base + pitch, base + 2·pitch are x86's addressing modes): a pointer a row would spill. */
V_INLINE void tile_sum(const tile_job *t, int64_t a_offset, vf *acc, const int mr, const int nv) {
    const dd_gemm *g = t->g;
    const int64_t lda = g->lda;
    const float *b = t->b;
    for (int s = 0; s < g->segments; s++) {
        const float *a[(MAX_MR + 2) / 3];
        DD_UNROLL
        for (int r = 0; r * 3 < mr; r++)
            a[r] = g->a[s] + a_offset + r * 3 * lda;
        DD_UNROLL_BY_2
        for (int k = g->ks ? g->ks[s] : g->k; k > 0; k--) {
            vf row[MAX_NV];
            DD_UNROLL
            for (int v = 0; v < nv; v++)
                row[v] = v_load(b + v * VL);
            b += nv * VL;
            DD_UNROLL
            for (int i = 0; i < mr; i++) {
                vf x = v_set1(a[i / 3][i % 3 * lda]);
                DD_UNROLL
                for (int v = 0; v < nv; v++)
                    acc[i * nv + v] = v_fma(x, row[v], acc[i * nv + v]);
            }
            DD_UNROLL
            for (int r = 0; r * 3 < mr; r++) {
                a[r]++;
                if (nv == 1)
                    DD_OPAQUE(a[r]);
            }
        }
    }
}

V_INLINE void tile_map(vf *acc, const int count, const dd_unary kind, dd_act act) {
    DD_UNROLL
    for (int i = 0; i < count; i++)
        acc[i] = act_apply(act_of_kind(kind, act), acc[i]);
}

/* The functions that end a tile in registers. The others (exponentials) are too long to be
 * written out for every tile: gemm_f32 sends the finished rows through unary_rows_f32. */
static bool act_is_inline(dd_unary kind) {
    return kind == DD_IDENTITY || kind == DD_RELU || kind == DD_CLIP || kind == DD_LEAKY_RELU ||
           kind == DD_HARD_SIGMOID || kind == DD_HARD_SWISH;
}

V_INLINE void tile_act(vf *acc, const int count, dd_act act) {
    switch (act.kind) {
    case DD_RELU:
        tile_map(acc, count, DD_RELU, act);
        break;
    case DD_CLIP:
        tile_map(acc, count, DD_CLIP, act);
        break;
    case DD_LEAKY_RELU:
        tile_map(acc, count, DD_LEAKY_RELU, act);
        break;
    case DD_HARD_SIGMOID:
        tile_map(acc, count, DD_HARD_SIGMOID, act);
        break;
    case DD_HARD_SWISH:
        tile_map(acc, count, DD_HARD_SWISH, act);
        break;
    default:
        break;
    }
}

/* acc[i][v] += rows[i·pitch + v] */
V_INLINE void tile_add(vf *acc, const float *rows, int64_t pitch, const int mr, const int nv,
                       int last) {
    DD_UNROLL
    for (int i = 0; i < mr; i++) {
        DD_UNROLL
        for (int v = 0; v < nv; v++)
            acc[i * nv + v] = v_add(acc[i * nv + v], load_of(rows + i * pitch, v, nv, last));
    }
}

/* A masked store costs more than a plain one where masks are vectors, hence two versions. */
V_INLINE void tile_store(vf *acc, float *c, int64_t ldc, const int mr, const int nv, int last) {
    if (last == VL) {
        DD_UNROLL
        for (int i = 0; i < mr; i++) {
            float *row = c + i * ldc;
            DD_UNROLL
            for (int v = 0; v < nv; v++)
                v_store(row + v * VL, acc[i * nv + v]);
        }
        return;
    }
    DD_UNROLL
    for (int i = 0; i < mr; i++) {
        float *row = c + i * ldc;
        DD_UNROLL
        for (int v = 0; v < nv - 1; v++)
            v_store(row + v * VL, acc[i * nv + v]);
        v_store_n(row + (nv - 1) * VL, acc[i * nv + nv - 1], last);
    }
}

V_INLINE void tile_load(vf *acc, const float *c, int64_t ldc, const int mr, const int nv,
                        int last) {
    DD_UNROLL
    for (int i = 0; i < mr; i++) {
        const float *row = c + i * ldc;
        DD_UNROLL
        for (int v = 0; v < nv; v++)
            acc[i * nv + v] = load_of(row, v, nv, last);
    }
}

/* What the sums start from: the bias costs next to nothing here, an addition a vector at the end.
 * It is loaded for each row anew, since loads are free here and copies of registers are not. */
V_INLINE void tile_begin(const tile_job *t, vf *acc, const int mr, const int nv) {
    const float *bias = t->bias;
    if (!bias) {
        DD_UNROLL
        for (int i = 0; i < mr * nv; i++)
            acc[i] = v_zero();
        return;
    }
    DD_UNROLL
    for (int i = 0; i < mr; i++) {
        DD_OPAQUE(bias);
        DD_UNROLL
        for (int v = 0; v < nv; v++)
            acc[i * nv + v] = load_of(bias, v, nv, t->last);
    }
}

/* The loop over the tiles stands here and not around the call: with short K the processor starts
 * on the next tile's sums while it stores this one's only if little lies between them. */
V_INLINE void tile_column(const tile_job *t, const int mr, const int nv) {
    const dd_gemm *g = t->g;
    const float *residual = t->residual;
    int64_t a_offset = t->a_offset;
    float *c = t->c;
    for (int64_t left = t->tiles; left > 0; left--) {
        vf acc[MAX_ACC];
        tile_begin(t, acc, mr, nv);
        if (g->accumulate)
            tile_add(acc, c, g->ldc, mr, nv, t->last);
        tile_sum(t, a_offset, acc, mr, nv);
        if (residual) {
            tile_add(acc, residual, g->ldr, mr, nv, t->last);
            residual += mr * g->ldr;
        }
        tile_act(acc, mr * nv, g->act);
        tile_store(acc, c, g->ldc, mr, nv, t->last);
        a_offset += mr * g->lda;
        c += mr * g->ldc;
    }
}

#define TILE(mr, nv)                                                                               \
    static void tile_##mr##x##nv(const tile_job *t) {                                              \
        tile_column(t, mr, nv);                                                                    \
    }
TILES(TILE)

typedef void (*tile_function)(const tile_job *t);
#define TILE_SLOT(mr, nv) [nv][mr] = tile_##mr##x##nv,
static const tile_function columns[MAX_NV + 1][MAX_MR + 1] = {TILES(TILE_SLOT)};

static void add_rows(float *c, int64_t ldc, const float *residual, int64_t ldr, int64_t rows,
                     int n) {
    for (int64_t row = 0; row < rows; row++, c += ldc, residual += ldr) {
        int i = 0;
        for (; i + VL <= n; i += VL)
            v_store(c + i, v_add(v_load(c + i), v_load(residual + i)));
        if (i < n)
            v_store_n(c + i, v_add(v_load_n(c + i, n - i), v_load_n(residual + i, n - i)), n - i);
    }
}

/* All columns of C for `tiles` tiles of `mr` rows from `row` on. */
static void block_run(const dd_gemm *g, int64_t row, int64_t tiles, int mr, int panel) {
    int64_t inner = (int64_t)g->segments * g->k;
    for (int s = 0; g->ks && s < g->segments; s++)
        inner = (s ? inner : 0) + g->ks[s];
    const int n_end = g->n_end ? g->n_end : g->n;
    tile_job t = {.g = g, .tiles = tiles, .a_offset = row * g->lda};
    for (int first = g->n_begin; first < n_end; first += panel) {
        const int width = min_int(panel, g->n - first), nv = vectors_of(width);
        t.b = g->b + first * inner;
        t.c = g->c + row * g->ldc + first;
        t.bias = g->bias ? g->bias + first : NULL;
        t.residual = g->residual && !g->act_first ? g->residual + row * g->ldr + first : NULL;
        t.last = width - (nv - 1) * VL;
        columns[nv][mr](&t);
    }
    float *c = g->c + row * g->ldc + g->n_begin;
    if (!act_is_inline(g->act.kind))
        DD_NAME(unary_rows_f32)(g->act, c, g->ldc, tiles * mr, n_end - g->n_begin);
    if (g->residual && g->act_first)
        add_rows(c, g->ldc, g->residual + row * g->ldr + g->n_begin, g->ldr, tiles * mr,
                 n_end - g->n_begin);
}

/* M is cut into tiles as even as they can be, the taller ones first; the tiles into blocks whose
 * part of A stays in the first-level cache while the panels of B pass. */
void DD_NAME(gemm_f32)(const dd_gemm *g) {
    const int nv = panel_vectors(vectors_of(g->n));
    if (g->m <= 0 || g->n <= 0)
        return;
    const int64_t tiles = (g->m + tile_rows[nv] - 1) / tile_rows[nv];
    const int rows = (int)(g->m / tiles);
    int64_t left[2] = {g->m % tiles, tiles - g->m % tiles}; /* of rows + 1 and of rows */
    const int64_t block = 1 + BLOCK_FLOATS / (g->segments * g->lda * tile_rows[nv] + 1);
    int64_t row = 0;
    for (int lower = 0; lower < 2; lower++)
        while (left[lower] > 0) {
            const int64_t now = left[lower] < block ? left[lower] : block;
            const int mr = rows + 1 - lower;
            block_run(g, row, now, mr, nv * VL);
            row += now * mr;
            left[lower] -= now;
        }
}

/* ---- Aᵀ · B -------------------------------------------------------------------------------- */

/* MR rows (of K) by NV vectors of C over `m` rows of A and B; C is read first, written last. */
typedef struct tn_job {
    const float *a, *b;
    float *c;
    int64_t lda, ldb, ldc, m;
    int last;
    const char *ahead[2]; /* a line of each is asked for in every step */
    int64_t ahead_step[2];
} tn_job;

/* How far gemm_tn_f32 is with what it fetches ahead. */
typedef struct ahead_cursor {
    const dd_ahead *a; /* or NULL */
    int at;
    int64_t done; /* bytes of stream `at` */
} ahead_cursor;

enum { LINE = 64 };

/* The next `lines` lines: their start, and the step from one to the next. */
static void ahead_take(ahead_cursor *c, int64_t lines, const void *nothing, const char **start,
                       int64_t *step) {
    while (c->a && c->at < c->a->n && c->done >= c->a->bytes[c->at]) {
        c->at++;
        c->done = 0;
    }
    if (!c->a || c->at >= c->a->n) {
        *start = nothing; /* a line that is there anyway */
        *step = 0;
        return;
    }
    *start = c->a->at[c->at] + c->done;
    *step = LINE;
    c->done += lines * LINE;
}

V_INLINE void tn_sum(const tn_job *t, vf *acc, const int mr, const int nv, int last) {
    const float *a = t->a, *b = t->b;
    const char *ahead = t->ahead[0], *too = t->ahead[1];
    DD_UNROLL_BY_2
    for (int64_t m = t->m; m > 0; m--) {
        vf row[MAX_NV];
        __builtin_prefetch(ahead, 0, 2);
        __builtin_prefetch(too, 0, 2);
        ahead += t->ahead_step[0];
        too += t->ahead_step[1];
        DD_UNROLL
        for (int v = 0; v < nv; v++)
            row[v] = last == VL ? v_load(b + v * VL) : load_of(b, v, nv, last);
        DD_UNROLL
        for (int i = 0; i < mr; i++) {
            vf x = v_set1(a[i]);
            DD_UNROLL
            for (int v = 0; v < nv; v++)
                acc[i * nv + v] = v_fma(x, row[v], acc[i * nv + v]);
        }
        a += t->lda;
        b += t->ldb;
    }
}

V_INLINE void tn_tile(const tn_job *t, const int mr, const int nv) {
    vf acc[MAX_ACC];
    tile_load(acc, t->c, t->ldc, mr, nv, t->last);
    if (t->last == VL)
        tn_sum(t, acc, mr, nv, VL);
    else
        tn_sum(t, acc, mr, nv, t->last);
    tile_store(acc, t->c, t->ldc, mr, nv, t->last);
}

#define TN_TILE(mr, nv)                                                                            \
    static void tn_tile_##mr##x##nv(const tn_job *t) {                                             \
        tn_tile(t, mr, nv);                                                                        \
    }
TILES(TN_TILE)

typedef void (*tn_function)(const tn_job *t);
#define TN_SLOT(mr, nv) [nv][mr] = tn_tile_##mr##x##nv,
static const tn_function tn_tiles[MAX_NV + 1][MAX_MR + 1] = {TILES(TN_SLOT)};

/* All of C for the rows that `t` describes (its a, b and m; the rest is set here). */
static void tn_block(const dd_gemm_tn *g, tn_job t, ahead_cursor *ahead) {
    const float *a = t.a, *b = t.b;
    const int panel = panel_vectors(vectors_of(g->n)), height = tile_rows[panel];
    const int strips = (g->k + height - 1) / height, rows = g->k / strips, taller = g->k % strips;
    for (int first = 0; first < g->n; first += panel * VL) {
        const int width = min_int(panel * VL, g->n - first), nv = vectors_of(width);
        t.last = width - (nv - 1) * VL;
        t.b = b + first;
        for (int strip = 0, k = 0; strip < strips; strip++) {
            const int mr = rows + (strip < taller);
            t.a = a + k;
            t.c = g->c + k * g->ldc + first;
            ahead_take(ahead, t.m, t.a, &t.ahead[0], &t.ahead_step[0]);
            ahead_take(ahead, t.m, t.a, &t.ahead[1], &t.ahead_step[1]);
            tn_tiles[nv][mr](&t);
            k += mr;
        }
    }
}

/* Each tile of C goes over all of A's and B's rows: they are cut into blocks that stay in the
 * first-level cache while the tiles pass. C waits in memory between blocks, as floats, so the
 * cut changes no bit. */
void DD_NAME(gemm_tn_f32)(const dd_gemm_tn *g) {
    if (g->k <= 0 || g->n <= 0)
        return;
    int64_t block = 8192 / (g->k + g->n);
    block = block < 64 ? 64 : block;
    ahead_cursor ahead = {.a = g->ahead};
    for (int64_t m = 0; m < g->m; m += block) {
        tn_job t = {.a = g->a + m * g->lda,
                    .b = g->b + m * g->ldb,
                    .lda = g->lda,
                    .ldb = g->ldb,
                    .ldc = g->ldc,
                    .m = g->m - m < block ? g->m - m : block};
        tn_block(g, t, &ahead);
    }
}
