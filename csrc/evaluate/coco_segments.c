/* Result lists in segments, and their columns. */
#include "evaluate/coco_segments.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"

dd_coco_annotation dd_coco_annotation_of(const dd_coco_row *row, bool results, size_t line,
                                         size_t index) {
    dd_coco_annotation a = {.id = row->id,
                            .image_id = row->image_id,
                            .category_id = row->category_id,
                            .area = results ? (double)NAN : row->value,
                            .score = results ? row->value : 0,
                            .segmentation = (size_t)row->segmentation,
                            .keypoints = (size_t)row->keypoints,
                            .segmentation_bytes = row->segmentation_bytes,
                            .keypoints_bytes = row->keypoints_bytes,
                            .line = (uint32_t)line,
                            .index = (uint32_t)index,
                            .image = -1,
                            .category = -1,
                            .num_keypoints = row->num_keypoints,
                            .crowd = row->crowd};
    memcpy(a.box, row->box, sizeof a.box);
    return a;
}

dd_status dd_coco_segments_join(dd_coco_file *f) {
    dd_coco_annotation *all;
    bool any;
    size_t n = dd_coco_results_count(f, &any, &any), at = 0;
    if (!f->n_segments)
        return DD_OK;
    DD_TRY(dd_alloc_array(n, sizeof *all, &all));
    for (size_t s = 0; s < f->n_segments; s++) {
        const dd_coco_segment *g = &f->segments[s];
        for (size_t i = 0; i < g->count; i++)
            all[at++] = g->rows ? dd_coco_annotation_of(&g->rows[i], true, g->line + i * g->lines,
                                                        g->index + i)
                                : f->annotations[g->first + i];
    }
    dd_free(f->annotations);
    dd_free(f->segments);
    dd_coco_lane_free(&f->lane);
    f->annotations = all;
    f->n_annotations = n;
    f->segments = NULL;
    f->n_segments = 0;
    return DD_OK;
}

size_t dd_coco_results_count(const dd_coco_file *f, bool *segmentation, bool *keypoints) {
    size_t n = f->n_segments ? 0 : f->n_annotations;
    *segmentation = *keypoints = false;
    for (size_t i = 0; i < f->n_annotations; i++) {
        *segmentation |= f->annotations[i].segmentation_bytes > 0;
        *keypoints |= f->annotations[i].keypoints_bytes > 0;
    }
    for (size_t s = 0; s < f->n_segments; s++) {
        const dd_coco_segment *g = &f->segments[s];
        n += g->count;
        /* Rows have the fields of the list's first record, so one of them tells. */
        *segmentation |= g->rows && g->rows[0].segmentation_bytes > 0;
        *keypoints |= g->rows && g->rows[0].keypoints_bytes > 0;
    }
    return n;
}

/* ---- columns ------------------------------------------------------------------------------- */

typedef struct filling {
    const dd_coco_file *file;
    const dd_coco_columns *columns;
} filling;

static void fill_place(const dd_coco_columns *c, size_t at, uint64_t segmentation,
                       uint32_t segmentation_bytes, uint64_t keypoints, uint32_t keypoints_bytes) {
    if (c->segmentation) {
        c->segmentation[at] = segmentation;
        c->segmentation_bytes[at] = segmentation_bytes;
    }
    if (c->keypoints) {
        c->keypoints[at] = keypoints;
        c->keypoints_bytes[at] = keypoints_bytes;
    }
}

static void fill_row(const dd_coco_columns *c, size_t at, const dd_coco_row *r) {
    c->image_id[at] = r->image_id;
    c->category_id[at] = r->category_id;
    c->score[at] = r->value;
    memcpy(c->box + 4 * at, r->box, sizeof r->box);
    fill_place(c, at, r->segmentation, r->segmentation_bytes, r->keypoints, r->keypoints_bytes);
}

static void fill_annotation(const dd_coco_columns *c, size_t at, const dd_coco_annotation *a) {
    c->image_id[at] = a->image_id;
    c->category_id[at] = a->category_id;
    c->score[at] = a->score;
    memcpy(c->box + 4 * at, a->box, sizeof a->box);
    fill_place(c, at, a->segmentation, a->segmentation_bytes, a->keypoints, a->keypoints_bytes);
}

static void fill_segment(void *context, int64_t unit, int thread) {
    const filling *f = context;
    (void)thread;
    const dd_coco_segment *g = &f->file->segments[unit];
    size_t at = 0;
    for (int64_t s = 0; s < unit; s++)
        at += f->file->segments[s].count;
    for (size_t i = 0; i < g->count; i++)
        if (g->rows)
            fill_row(f->columns, at + i, &g->rows[i]);
        else
            fill_annotation(f->columns, at + i, &f->file->annotations[g->first + i]);
}

void dd_coco_columns_fill(const dd_coco_file *file, const dd_coco_columns *columns) {
    filling f = {file, columns};
    if (file->n_segments)
        dd_parallel((int64_t)file->n_segments, fill_segment, &f);
    else
        for (size_t i = 0; i < file->n_annotations; i++)
            fill_annotation(columns, i, &file->annotations[i]);
}
