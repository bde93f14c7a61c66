/* The optimal matching against all permutations: costs of every shape, labelled boxes by the three
 * rules of match.h, broken boxes, thresholds, failing allocations. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "detect/boxes.h"
#include "detect/match.h"

#include "check.h"

enum { MOST = 6 };

static uint64_t drawn;
static double draw(void) {
    drawn = drawn * 6364136223846793005u + 1442695040888963407u;
    return (double)(drawn >> 11) / 9007199254740992.0;
}

/* ---- assignment ---------------------------------------------------------------------------- */

/* The least cost by trying everything: row i takes any free column, or none where rows are many. */
static double least(int n, int m, const double *cost, int i, unsigned taken, int left_out) {
    if (i == n)
        return 0;
    double best = INFINITY;
    for (int j = 0; j < m; j++)
        if (!(taken & 1u << j))
            best =
                fmin(best, cost[i * m + j] + least(n, m, cost, i + 1, taken | 1u << j, left_out));
    if (left_out > 0)
        best = fmin(best, least(n, m, cost, i + 1, taken, left_out - 1));
    return best;
}

static void check_assignment(void) {
    for (int trial = 0; trial < 600; trial++) {
        int n = (int)(draw() * (MOST + 1)), m = (int)(draw() * (MOST + 1));
        double cost[MOST * MOST], sum = 0;
        int32_t column[MOST];
        /* whole numbers with many ties, or reals of both signs */
        for (int i = 0; i < n * m; i++)
            cost[i] = trial % 2 ? floor(draw() * 4) : draw() * 20 - 10;
        CHECK(dd_assignment_solve(n, m, cost, column) == DD_OK, "%s", dd_message());
        unsigned taken = 0;
        int pairs = 0;
        for (int i = 0; i < n; i++) {
            CHECK(column[i] >= -1 && column[i] < m, "column %d", column[i]);
            if (column[i] < 0)
                continue;
            CHECK(!(taken & 1u << column[i]), "column %d twice", column[i]);
            taken |= 1u << column[i];
            sum += cost[i * m + column[i]];
            pairs++;
        }
        CHECK(pairs == (n < m ? n : m), "%d pairs of %d by %d", pairs, n, m);
        double best = least(n, m, cost, 0, 0, n > m ? n - m : 0);
        CHECK(fabs(sum - best) <= 1e-9, "%dx%d: %.17g, the least is %.17g", n, m, sum, best);
    }
}

static void check_bad_costs(void) {
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        double cost[4] = {1, 2, bad[i], 4};
        int32_t column[2] = {7, 7};
        CHECK(dd_assignment_solve(2, 2, cost, column) == DD_EVALUE &&
                  strstr(dd_message(), "row 1, column 0"),
              "%s", dd_message());
        CHECK(column[0] == 7 && column[1] == 7, "touched");
    }
}

/* ---- labelled boxes ------------------------------------------------------------------------ */

typedef struct score {
    int agree, same;
    double overlap;
} score;

static int better(score x, score y) {
    if (x.agree != y.agree)
        return x.agree > y.agree;
    if (fabs(x.overlap - y.overlap) > 1e-5)
        return x.overlap > y.overlap;
    return x.same > y.same;
}

static score add(score s, const dd_labelled *a, const dd_labelled *b, int i, int j, float iou) {
    float overlap = dd_box_iou(a->boxes + 4 * i, b->boxes + 4 * j);
    int same = a->labels[i] == b->labels[j];
    return (score){s.agree + (same && overlap >= iou), s.same + same, s.overlap + (double)overlap};
}

static score best_score(const dd_labelled *a, const dd_labelled *b, float iou, float near, int i,
                        unsigned taken, score s) {
    if (i == a->count)
        return s;
    score best = best_score(a, b, iou, near, i + 1, taken, s);
    for (int j = 0; j < b->count; j++) {
        if (taken & 1u << j || dd_box_iou(a->boxes + 4 * i, b->boxes + 4 * j) < near)
            continue;
        score here = best_score(a, b, iou, near, i + 1, taken | 1u << j, add(s, a, b, i, j, iou));
        if (better(here, best))
            best = here;
    }
    return best;
}

static void draw_labels(int64_t count, float *boxes, int32_t *labels) {
    for (int i = 0; i < count; i++) {
        float x = (float)floor(draw() * 10), y = (float)floor(draw() * 6);
        boxes[4 * i] = x;
        boxes[4 * i + 1] = y;
        boxes[4 * i + 2] = x + 8 + (float)floor(draw() * 5);
        boxes[4 * i + 3] = y + 8 + (float)floor(draw() * 5);
        labels[i] = (int32_t)(draw() * 2);
    }
}

static void check_against_all(void) {
    for (int trial = 0; trial < 500; trial++) {
        float boxes[2][4 * MOST], overlap[MOST];
        int32_t labels[2][MOST], partner[MOST];
        dd_labelled a = {(int64_t)(draw() * 6), boxes[0], labels[0]};
        dd_labelled b = {(int64_t)(draw() * 6), boxes[1], labels[1]};
        draw_labels(a.count, boxes[0], labels[0]);
        draw_labels(b.count, boxes[1], labels[1]);
        CHECK(dd_labels_match(&a, &b, .7f, .3f, partner, overlap) == DD_OK, "%s", dd_message());
        score got = {0};
        unsigned taken = 0;
        for (int i = 0; i < a.count; i++) {
            if (partner[i] < 0)
                continue;
            CHECK(partner[i] < b.count && !(taken & 1u << partner[i]), "partner %d", partner[i]);
            taken |= 1u << partner[i];
            CHECK(overlap[i] == dd_box_iou(a.boxes + 4 * i, b.boxes + 4 * partner[i]), "overlap");
            CHECK(overlap[i] >= .3f, "%g", (double)overlap[i]);
            got = add(got, &a, &b, i, partner[i], .7f);
        }
        score best = best_score(&a, &b, .7f, .3f, 0, 0, (score){0});
        CHECK(!better(best, got), "agree %d of %d, overlap %g of %g, same %d of %d", got.agree,
              best.agree, got.overlap, best.overlap, got.same, best.same);
    }
}

/* A chain in which the best pair alone would cost two agreements, and equal places by class. */
static void check_rules(void) {
    float a[] = {0, 0, 10, 10, 2, 0, 12, 10}, b[] = {1, 0, 11, 10, -1, 0, 9, 10}, overlap[2];
    int32_t zero[] = {0, 0}, classes[] = {0, 1}, turned[] = {1, 0}, partner[2];
    dd_labelled x = {2, a, zero}, y = {2, b, zero};
    CHECK(dd_labels_match(&x, &y, .7f, .3f, partner, overlap) == DD_OK, "%s", dd_message());
    CHECK(partner[0] == 1 && partner[1] == 0, "%d %d", partner[0], partner[1]);
    float same[] = {0, 0, 10, 10, 0, 0, 10, 10};
    dd_labelled p = {2, same, classes}, q = {2, same, turned};
    CHECK(dd_labels_match(&p, &q, .7f, .3f, partner, overlap) == DD_OK, "%s", dd_message());
    CHECK(partner[0] == 1 && partner[1] == 0 && overlap[0] == 1, "%d %d", partner[0], partner[1]);
    /* Below `iou` nothing agrees, so overlap decides although the classes differ. */
    float one[] = {0, 0, 10, 10}, two[] = {5, 0, 15, 10, 4, 0, 14, 10};
    dd_labelled s = {1, one, classes}, t = {2, two, classes};
    CHECK(dd_labels_match(&s, &t, .7f, .3f, partner, overlap) == DD_OK, "%s", dd_message());
    CHECK(partner[0] == 1, "%d", partner[0]);
}

static void check_bad(void) {
    float boxes[] = {0, 0, 10, 10, NAN, 0, 10, 10, 5, 5, 5, 9, 9, 9, 1, 1}, overlap[4];
    int32_t labels[] = {0, 0, 0, 0}, partner[4] = {9, 9, 9, 9};
    dd_labelled a = {4, boxes, labels}, none = {0, NULL, NULL};
    CHECK(dd_labels_match(&a, &a, .7f, .3f, partner, overlap) == DD_OK, "%s", dd_message());
    CHECK(partner[0] == 0 && partner[1] == -1 && partner[2] == -1 && partner[3] == -1, "broken");
    CHECK(dd_labels_match(&a, &none, .7f, .3f, partner, overlap) == DD_OK && partner[0] == -1,
          "nothing on one side");
    CHECK(dd_labels_match(&none, &a, .7f, .3f, NULL, NULL) == DD_OK, "%s", dd_message());
    static const float thresholds[][2] = {
        {.3f, .7f}, {.7f, 0}, {1.5f, .3f}, {NAN, .3f}, {.7f, NAN}};
    for (int i = 0; i < 5; i++)
        CHECK(dd_labels_match(&a, &a, thresholds[i][0], thresholds[i][1], partner, overlap) ==
                  DD_EVALUE,
              "thresholds %d", i);
    dd_labelled many = {DD_MATCH_BOXES, boxes, labels};
    CHECK(dd_labels_match(&many, &a, .7f, .3f, partner, overlap) == DD_EVALUE, "too many");
}

static void check_failing_allocations(void) {
    float boxes[4 * MOST], overlap[MOST];
    int32_t labels[MOST], partner[MOST];
    draw_labels(MOST, boxes, labels);
    dd_labelled a = {MOST, boxes, labels};
    uint64_t live = dd_alloc_live();
    for (uint64_t n = 1;; n++) {
        partner[0] = 77;
        dd_alloc_fail_at(n);
        dd_status status = dd_labels_match(&a, &a, .7f, .3f, partner, overlap);
        dd_alloc_fail_at(0);
        CHECK(dd_alloc_live() == live, "a leak at allocation %d", (int)n);
        if (status == DD_OK)
            break;
        CHECK(status == DD_ENOMEM && partner[0] == 77, "allocation %d", (int)n);
    }
}

int main(void) {
    check_assignment();
    check_bad_costs();
    check_against_all();
    check_rules();
    check_bad();
    check_failing_allocations();
    return check_done("match");
}
