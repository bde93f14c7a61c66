/* See match.h. Pairs that overlap enough are edges of a graph; its connected components are small
 * even in crowded images, and each is one dense assignment problem. */
#include "detect/match.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "detect/boxes.h"

/* ---- assignment ---------------------------------------------------------------------------- */

/* What the search for one row's place needs. Rows n <= columns m; strides let a wide problem be
 * read as a tall one without a copy. */
typedef struct search {
    int64_t n, m, row_stride, column_stride;
    const double *cost;
    double *row_price, *column_price; /* potentials: cost - prices >= 0, 0 on taken pairs */
    double *distance;                 /* (m) shortest known reduced path to a column */
    int32_t *row_of;                  /* (m) row that holds a column, -1 */
    int32_t *before;                  /* (m) column from which the path came, -1: the new row */
    uint8_t *settled;                 /* (m) */
} search;

/* Gives row `start` a column: Dijkstra over the reduced costs to the nearest free column, then the
 * rows along the path move on by one. */
static void place_row(const search *s, int32_t start) {
    int32_t column = -1, row = start;
    for (int64_t j = 0; j < s->m; j++)
        s->distance[j] = INFINITY;
    memset(s->settled, 0, (size_t)s->m);
    do {
        const double *cost = s->cost + row * s->row_stride;
        double least = INFINITY;
        int32_t next = -1;
        for (int64_t j = 0; j < s->m; j++) {
            if (s->settled[j])
                continue;
            double here = cost[j * s->column_stride] - s->row_price[row] - s->column_price[j];
            if (here < s->distance[j]) {
                s->distance[j] = here;
                s->before[j] = column;
            }
            if (s->distance[j] < least) {
                least = s->distance[j];
                next = (int32_t)j;
            }
        }
        /* Prices move by the step just made, so that distances stay relative to the frontier. */
        s->row_price[start] += least;
        for (int64_t j = 0; j < s->m; j++) {
            if (s->settled[j]) {
                s->row_price[s->row_of[j]] += least;
                s->column_price[j] -= least;
            } else {
                s->distance[j] -= least;
            }
        }
        column = next;
        s->settled[column] = 1;
        row = s->row_of[column];
    } while (row >= 0);
    while (column >= 0) {
        int32_t previous = s->before[column];
        s->row_of[column] = previous >= 0 ? s->row_of[previous] : start;
        column = previous;
    }
}

dd_status dd_assignment_solve(int64_t n, int64_t m, const double *cost, int32_t *column) {
    dd_status status = DD_OK;
    bool tall = n > m;
    search s = {.cost = cost, .n = tall ? m : n, .m = tall ? n : m};
    s.row_stride = tall ? 1 : m;
    s.column_stride = tall ? m : 1;
    if (n < 0 || m < 0 || n > INT32_MAX || m > INT32_MAX)
        return dd_fail(DD_EVALUE, "assignment: sizes %lld and %lld are out of range", (long long)n,
                       (long long)m);
    for (int64_t i = 0; i < n * m; i++)
        if (!isfinite(cost[i]))
            return dd_fail(DD_EVALUE,
                           "assignment: cost of row %lld, column %lld is %g, finite "
                           "costs are needed",
                           (long long)(i / m), (long long)(i % m), cost[i]);
    size_t rows = (size_t)s.n, columns = (size_t)s.m;
    DD_TRY_DONE(dd_alloc_array(rows, sizeof(double), &s.row_price));
    DD_TRY_DONE(dd_alloc_array(columns, sizeof(double), &s.column_price));
    DD_TRY_DONE(dd_alloc_array(columns, sizeof(double), &s.distance));
    DD_TRY_DONE(dd_alloc_array(columns, sizeof(int32_t), &s.row_of));
    DD_TRY_DONE(dd_alloc_array(columns, sizeof(int32_t), &s.before));
    DD_TRY_DONE(dd_alloc_array(columns, 1, &s.settled));
    for (int64_t j = 0; j < s.m; j++)
        s.row_of[j] = -1;
    for (int64_t i = 0; i < s.n; i++) {
        if (dd_cancelled()) {
            status = dd_fail(DD_ECANCELED, "assignment: cancelled");
            goto done;
        }
        place_row(&s, (int32_t)i);
    }
    for (int64_t i = 0; i < n; i++)
        column[i] = tall ? s.row_of[i] : -1;
    for (int64_t j = 0; !tall && j < s.m; j++)
        if (s.row_of[j] >= 0)
            column[s.row_of[j]] = (int32_t)j;
done:
    dd_free(s.row_price);
    dd_free(s.column_price);
    dd_free(s.distance);
    dd_free(s.row_of);
    dd_free(s.before);
    dd_free(s.settled);
    return status;
}

/* ---- components of overlapping boxes ------------------------------------------------------- */

typedef struct edge {
    int32_t a, b;
    float iou;
} edge;

typedef struct overlap_graph {
    edge *edges; /* in ascending order of a, then b */
    size_t count, capacity;
    int32_t *parent; /* (a + b boxes) union-find; b's boxes follow a's */
    int32_t *place;  /* (a + b boxes) a box's row or column in its component */
} overlap_graph;

static int32_t root_of(int32_t *parent, int32_t i) {
    while (parent[i] != i)
        i = parent[i] = parent[parent[i]];
    return i;
}

/* All pairs from `near` on, with their boxes joined. The lower root wins: the components' order is
 * that of their first box. */
static dd_status connect(const dd_labelled *a, const dd_labelled *b, float near, overlap_graph *g) {
    for (int64_t i = 0; i < a->count + b->count; i++)
        g->parent[i] = (int32_t)i;
    for (int64_t i = 0; i < a->count; i++) {
        if (i % 64 == 0 && dd_cancelled())
            return dd_fail(DD_ECANCELED, "match: cancelled");
        for (int64_t j = 0; j < b->count; j++) {
            float iou = dd_box_iou(a->boxes + 4 * i, b->boxes + 4 * j);
            if (!(iou >= near))
                continue;
            DD_TRY(dd_reserve(&g->edges, &g->capacity, g->count + 1, sizeof(edge)));
            g->edges[g->count++] = (edge){(int32_t)i, (int32_t)j, iou};
            int32_t x = root_of(g->parent, (int32_t)i);
            int32_t y = root_of(g->parent, (int32_t)(a->count + j));
            g->parent[x > y ? x : y] = x > y ? y : x;
        }
    }
    return DD_OK;
}

/* What a pair is worth, in whole numbers whose sums over `most` pairs stay below 2^53: agreement
 * outweighs any sum of overlaps, an overlap any number of equal classes. */
typedef struct scale {
    double agree, overlap;
} scale;

static scale make_scale(int64_t most) {
    double pairs = (double)most + 1;
    double unit = fmin(1048576.0, floor(9007199254740991.0 / (pairs * pairs * pairs * 2)));
    return (scale){.agree = pairs * pairs * unit, .overlap = pairs * unit};
}

static double worth(const scale *s, const edge *e, bool same, float iou) {
    double unit_pairs = s->overlap, pairs = s->agree / s->overlap;
    double overlap = nearbyint((double)e->iou * (unit_pairs / pairs)) * pairs;
    return overlap + (same && e->iou >= iou ? s->agree : 0) + (same ? 1 : 0);
}

/* One component: `edges` are its `count` edges, rows and columns its sizes; g->place is set. */
static dd_status match_component(const dd_labelled *a, const dd_labelled *b, const edge *edges,
                                 size_t count, const int32_t *place, int64_t rows, int64_t columns,
                                 float iou, int32_t *partner, float *overlap) {
    dd_status status = DD_OK;
    double *cost = NULL;
    int32_t *column = NULL;
    size_t cells;
    scale s = make_scale(rows < columns ? rows : columns);
    DD_TRY(dd_size_mul((size_t)rows, (size_t)columns, "match", &cells));
    DD_TRY_DONE(dd_alloc_array(cells, sizeof(double), &cost));
    DD_TRY_DONE(dd_alloc_array((size_t)rows, sizeof(int32_t), &column));
    for (size_t i = 0; i < count; i++) {
        const edge *e = &edges[i];
        bool same = a->labels[e->a] == b->labels[e->b];
        cost[place[e->a] * columns + place[a->count + e->b]] = -worth(&s, e, same, iou);
    }
    DD_TRY_DONE(dd_assignment_solve(rows, columns, cost, column));
    for (size_t i = 0; i < count; i++) {
        const edge *e = &edges[i];
        /* A pair that is no edge has cost 0: the solver fills up with such, they are no pairs. */
        if (column[place[e->a]] == place[a->count + e->b]) {
            partner[e->a] = e->b;
            overlap[e->a] = e->iou;
        }
    }
done:
    dd_free(cost);
    dd_free(column);
    return status;
}

/* Sorts the edges by component, keeping their order within: a counting sort over the roots.
 * starts (nodes + 1) and sorted (edges) are the caller's. */
static void sort_edges(overlap_graph *g, int64_t nodes, size_t *starts, edge *sorted) {
    for (size_t i = 0; i < g->count; i++)
        starts[root_of(g->parent, g->edges[i].a) + 1]++;
    for (int64_t i = 0; i < nodes; i++)
        starts[i + 1] += starts[i];
    for (size_t i = 0; i < g->count; i++)
        sorted[starts[root_of(g->parent, g->edges[i].a)]++] = g->edges[i];
}

/* Numbers the rows and columns of one component in order of appearance. */
static void number_places(const dd_labelled *a, const edge *edges, size_t count, int32_t *place,
                          int64_t *rows, int64_t *columns) {
    *rows = *columns = 0;
    for (size_t i = 0; i < count; i++) {
        int32_t *row = &place[edges[i].a], *column = &place[a->count + edges[i].b];
        if (*row < 0)
            *row = (int32_t)(*rows)++;
        if (*column < 0)
            *column = (int32_t)(*columns)++;
    }
}

static dd_status match_components(const dd_labelled *a, const dd_labelled *b, overlap_graph *g,
                                  float iou, int32_t *partner, float *overlap) {
    dd_status status = DD_OK;
    int64_t nodes = a->count + b->count;
    size_t *ends = NULL;
    edge *sorted = NULL;
    DD_TRY_DONE(dd_alloc_array((size_t)nodes + 1, sizeof *ends, &ends));
    DD_TRY_DONE(dd_alloc_array(g->count, sizeof *sorted, &sorted));
    sort_edges(g, nodes, ends, sorted);
    for (int64_t i = 0; i < nodes; i++)
        g->place[i] = -1;
    /* After the sort ends[r] is where the edges of root r end; they begin where the last ones do.
     */
    size_t begin = 0;
    for (int64_t r = 0; r < nodes; r++) {
        size_t count = ends[r] - begin;
        if (!count)
            continue;
        int64_t rows, columns;
        const edge *edges = sorted + begin;
        number_places(a, edges, count, g->place, &rows, &columns);
        DD_TRY_DONE(
            match_component(a, b, edges, count, g->place, rows, columns, iou, partner, overlap));
        begin = ends[r];
    }
done:
    dd_free(ends);
    dd_free(sorted);
    return status;
}

dd_status dd_labels_match(const dd_labelled *a, const dd_labelled *b, float iou, float near,
                          int32_t *partner, float *overlap) {
    dd_status status = DD_OK;
    overlap_graph g = {0};
    int32_t *found = NULL;
    float *shared = NULL;
    if (!(near > 0 && near <= iou && iou <= 1))
        return dd_fail(DD_EVALUE, "match: iou is %g and near %g, 0 < near <= iou <= 1 is needed",
                       (double)iou, (double)near);
    if (a->count + b->count > DD_MATCH_BOXES)
        return dd_fail(DD_EVALUE, "match: %lld boxes on an image, at most %d are compared",
                       (long long)(a->count + b->count), DD_MATCH_BOXES);
    size_t nodes = (size_t)(a->count + b->count), rows = (size_t)a->count;
    DD_TRY_DONE(dd_alloc_array(nodes, sizeof(int32_t), &g.parent));
    DD_TRY_DONE(dd_alloc_array(nodes, sizeof(int32_t), &g.place));
    DD_TRY_DONE(dd_alloc_array(rows, sizeof(int32_t), &found));
    DD_TRY_DONE(dd_alloc_array(rows, sizeof(float), &shared));
    for (size_t i = 0; i < rows; i++)
        found[i] = -1;
    DD_TRY_DONE(connect(a, b, near, &g));
    DD_TRY_DONE(match_components(a, b, &g, iou, found, shared));
    if (rows) {
        memcpy(partner, found, rows * sizeof *found);
        memcpy(overlap, shared, rows * sizeof *shared);
    }
done:
    dd_free(g.edges);
    dd_free(g.parent);
    dd_free(g.place);
    dd_free(found);
    dd_free(shared);
    return status;
}
