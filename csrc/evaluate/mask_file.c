/* A block of annotations is a unit of work with a list of runs of its own, so that threads share
 * nothing; regions are made when the block's list has stopped growing. The first failure in the
 * order of the annotations is the one that is told, whichever thread was quicker. */
#include "evaluate/mask_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "evaluate/json.h"

#define BLOCK 64 /* annotations of a unit */

typedef struct failure {
    dd_status status;
    char message[256];
} failure;

typedef struct job {
    const dd_mask_source *source;
    dd_mask_set *set;
    failure *failures; /* (blocks) */
} job;

/* One annotation while it is read. */
typedef struct reader {
    dd_json json;
    dd_runs *runs;
    double *points;
    size_t n_points, points_capacity;
    dd_rle *parts; /* of several polygons */
    size_t n_parts, parts_capacity;
    uint32_t h, w;
} reader;

/* ---- values -------------------------------------------------------------------------------- */

/* The numbers of a list, into points. */
static dd_status read_numbers(reader *r) {
    bool more;
    r->n_points = 0;
    DD_TRY(dd_json_array(&r->json));
    for (;;) {
        DD_TRY(dd_json_item(&r->json, &more));
        if (!more)
            return DD_OK;
        DD_TRY(dd_reserve(&r->points, &r->points_capacity, r->n_points + 1, sizeof *r->points));
        DD_TRY(dd_json_number(&r->json, &r->points[r->n_points]));
        r->n_points++;
    }
}

/* One polygon as a part of the mask, which begins at r->runs->n. */
static dd_status read_polygon(reader *r) {
    DD_TRY(read_numbers(r));
    size_t before = r->runs->n;
    DD_TRY(dd_mask_from_polygon(r->points, r->n_points / 2, r->h, r->w, r->runs));
    DD_TRY(dd_reserve(&r->parts, &r->parts_capacity, r->n_parts + 1, sizeof *r->parts));
    r->parts[r->n_parts++] = (dd_rle){r->h, r->w, r->runs->n - before, NULL};
    return DD_OK;
}

/* The parts lie one behind the other from `first` on; their union takes their place. */
static dd_status join_parts(reader *r, size_t first) {
    if (r->n_parts == 1)
        return DD_OK;
    uint32_t h, w;
    size_t end = r->runs->n, total = end - first;
    /* Room first: merging must not move the parts that it reads. */
    DD_TRY(dd_reserve(&r->runs->counts, &r->runs->capacity, end + 2 * (total + 2),
                      sizeof *r->runs->counts));
    uint32_t *counts = r->runs->counts + first;
    for (size_t i = 0; i < r->n_parts; i++) {
        r->parts[i].counts = counts;
        counts += r->parts[i].n;
    }
    DD_TRY(dd_mask_merge(r->parts, r->n_parts, false, r->runs, &h, &w));
    size_t n = r->runs->n - end;
    memmove(r->runs->counts + first, r->runs->counts + end, n * sizeof *counts);
    r->runs->n = first + n;
    return DD_OK;
}

static dd_status append_run(reader *r, double run) {
    dd_runs *runs = r->runs;
    if (!(run >= 0 && run <= UINT32_MAX && run == floor(run)))
        return dd_fail(DD_EVALUE, "mask: a run of %g pixels came", run);
    DD_TRY(dd_reserve(&runs->counts, &runs->capacity, runs->n + 1, sizeof *runs->counts));
    runs->counts[runs->n++] = (uint32_t)run;
    return DD_OK;
}

static dd_status read_polygons(reader *r) {
    size_t first = r->runs->n;
    bool more;
    r->n_parts = 0;
    if (!r->h || !r->w)
        return dd_fail(DD_EVALUE, "polygons need the image's width and height");
    DD_TRY(dd_json_array(&r->json));
    for (;;) {
        DD_TRY(dd_json_item(&r->json, &more));
        if (!more)
            break;
        DD_TRY(read_polygon(r));
    }
    return r->n_parts ? join_parts(r, first) : append_run(r, (double)r->h * r->w);
}

/* The value of "counts": text or numbers. */
static dd_status read_counts(reader *r) {
    if (dd_json_peek(&r->json) != DD_JSON_STRING) {
        DD_TRY(read_numbers(r));
        for (size_t i = 0; i < r->n_points; i++)
            DD_TRY(append_run(r, r->points[i]));
        return DD_OK;
    }
    dd_json_text text;
    DD_TRY(dd_json_string(&r->json, &text));
    if (!text.escaped)
        return dd_mask_from_text(text.data, text.length, r->runs);
    char *plain; /* a backslash is a digit of the code, so it comes escaped */
    DD_TRY(dd_alloc(text.length, &plain));
    dd_status status = dd_mask_from_text(plain, dd_json_unescape(&text, plain), r->runs);
    dd_free(plain);
    return status;
}

static dd_status read_rle(reader *r) {
    dd_json_text key;
    bool more, sized = false, counted = false;
    DD_TRY(dd_json_object(&r->json));
    for (;;) {
        DD_TRY(dd_json_key(&r->json, &key, &more));
        if (!more)
            break;
        if (dd_json_is(&key, "size")) {
            DD_TRY(read_numbers(r));
            const double *p = r->points;
            if (r->n_points != 2 || !(p[0] >= 0 && p[0] <= UINT32_MAX && p[0] == floor(p[0])) ||
                !(p[1] >= 0 && p[1] <= UINT32_MAX && p[1] == floor(p[1])))
                return dd_json_fail(&r->json, "size needs two whole numbers, height and width");
            r->h = (uint32_t)p[0];
            r->w = (uint32_t)p[1];
            sized = true;
        } else if (dd_json_is(&key, "counts")) {
            DD_TRY(read_counts(r));
            counted = true;
        } else {
            DD_TRY(dd_json_skip(&r->json));
        }
    }
    if (!sized || !counted)
        return dd_json_fail(&r->json, "a mask needs size and counts");
    return dd_mask_check_size(r->h, r->w);
}

/* ---- blocks -------------------------------------------------------------------------------- */

/* Annotation i: its runs go to the block's list, its size to the region. */
static dd_status read_mask(reader *r, const dd_mask_source *s, size_t i, dd_region *region) {
    size_t first = r->runs->n;
    r->h = s->h[i] > 0 ? (uint32_t)s->h[i] : 0;
    r->w = s->w[i] > 0 ? (uint32_t)s->w[i] : 0;
    if (s->bytes[i]) {
        r->json.at = (size_t)s->at[i];
        if (dd_json_peek(&r->json) == DD_JSON_ARRAY)
            DD_TRY(read_polygons(r));
        else
            DD_TRY(read_rle(r));
    } else if (s->box && !isnan(s->box[4 * i])) {
        DD_TRY(dd_mask_from_box(s->box + 4 * i, r->h, r->w, r->runs));
    }
    *region = (dd_region){.h = r->h, .w = r->w, .n = (uint32_t)(r->runs->n - first)};
    return DD_OK;
}

static dd_status read_block(const job *j, size_t block, reader *r) {
    const dd_mask_source *s = j->source;
    size_t begin = block * BLOCK, end = begin + BLOCK < s->n ? begin + BLOCK : s->n;
    for (size_t i = begin; i < end; i++) {
        dd_status status = read_mask(r, s, i, &j->set->regions[i]);
        if (status != DD_OK)
            return dd_fail_within(status, "%s: mask %zu", s->name, i);
    }
    uint32_t *counts = r->runs->counts;
    for (size_t i = begin; i < end; i++) {
        dd_region *region = &j->set->regions[i];
        dd_rle rle = {region->h, region->w, region->n, counts};
        counts += region->n;
        dd_status status = dd_region_make(&rle, region);
        if (status != DD_OK)
            return dd_fail_within(status, "%s: mask %zu", s->name, i);
    }
    return DD_OK;
}

static void block_unit(void *context, int64_t block, int thread) {
    const job *j = context;
    (void)thread;
    if (dd_cancelled())
        return;
    reader r = {.runs = &j->set->blocks[block]};
    dd_json_begin(&r.json, j->source->text, j->source->length, j->source->name);
    failure *f = &j->failures[block];
    f->status = read_block(j, (size_t)block, &r);
    if (f->status != DD_OK)
        snprintf(f->message, sizeof f->message, "%.250s", dd_message());
    dd_json_free(&r.json);
    dd_free(r.points);
    dd_free(r.parts);
    dd_free(r.runs->keys); /* scratch of the rasterization */
    r.runs->keys = NULL;
    r.runs->keys_capacity = 0;
}

dd_status dd_mask_set_read(const dd_mask_source *source, dd_mask_set *out) {
    dd_status status = DD_OK;
    dd_mask_set set = {.n = source->n, .n_blocks = (source->n + BLOCK - 1) / BLOCK};
    job j = {.source = source, .set = &set};
    for (size_t i = 0; i < source->n; i++)
        if (source->bytes[i] && source->at[i] >= source->length)
            return dd_fail(DD_EVALUE, "%s: mask %zu begins beyond the text", source->name, i);
    DD_TRY_DONE(dd_alloc_array(set.n, sizeof *set.regions, &set.regions));
    DD_TRY_DONE(dd_alloc_array(set.n_blocks, sizeof *set.blocks, &set.blocks));
    DD_TRY_DONE(dd_alloc_array(set.n_blocks, sizeof *j.failures, &j.failures));
    dd_parallel((int64_t)set.n_blocks, block_unit, &j);
    for (size_t i = 0; i < set.n_blocks; i++)
        if (j.failures[i].status != DD_OK) {
            status = dd_fail(j.failures[i].status, "%s", j.failures[i].message);
            goto done;
        }
    if (dd_cancelled()) {
        status = dd_fail(DD_ECANCELED, "masks: canceled");
        goto done;
    }
    *out = set;
    set = (dd_mask_set){0};
done:
    dd_mask_set_free(&set);
    dd_free(j.failures);
    return status;
}

void dd_mask_set_free(dd_mask_set *set) {
    for (size_t i = 0; set->blocks && i < set->n_blocks; i++)
        dd_runs_free(&set->blocks[i]);
    dd_free(set->blocks);
    dd_free(set->regions);
    *set = (dd_mask_set){0};
}
