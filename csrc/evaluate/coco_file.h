/* COCO files into arrays: ground truth (images, annotations, categories) and result lists.
 *
 * What breaks JSON or the file's frame (no object at the root, a section that is no list, a record
 * that is no object) is fatal. What is wrong within a record is a *defect*: it is noted with its
 * line and the record is left out, so that a data set reader can drop it aloud or refuse the file.
 * Geometry (zero or negative sizes, boxes outside the image) is the reader's business: evaluation
 * takes such boxes as they are. Unknown keys are skipped, but checked like everything else.
 *
 * LVIS files are COCO files with a little more: an image without file_name is called by the last
 * two parts of its coco_url ("val2017/000000397133.jpg"), which is LVIS v1's way. */
#ifndef DD_EVALUATE_COCO_FILE_H
#define DD_EVALUATE_COCO_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "evaluate/coco_lane.h"

typedef enum dd_coco_section {
    DD_COCO_IMAGES = 0,
    DD_COCO_ANNOTATIONS, /* of a result list: its records */
    DD_COCO_CATEGORIES,
    DD_COCO_SECTIONS,
} dd_coco_section;

/* Reasons; dd_coco_reason_name gives the text that Python sees. Only the images' size and
 * file_name and a category's name leave the record in (size 0, an empty name). */
typedef enum dd_coco_reason {
    DD_COCO_MISSING = 0,      /* a field that is needed is not there */
    DD_COCO_WRONG_TYPE,       /* a string where a number was needed, ... */
    DD_COCO_BAD_ID,           /* not whole, or beyond 2^53 */
    DD_COCO_DUPLICATE_ID,     /* the first record with the id stays */
    DD_COCO_UNKNOWN_IMAGE,    /* image_id that no image has */
    DD_COCO_UNKNOWN_CATEGORY, /* category_id that no category has */
    DD_COCO_BAD_BOX,          /* bbox is not four finite numbers */
    DD_COCO_BAD_VALUE,        /* out of range: iscrowd other than 0 and 1, a width below 1 */
    DD_COCO_REASONS,
} dd_coco_reason;

typedef struct dd_coco_defect {
    dd_coco_section section;
    dd_coco_reason reason;
    int64_t index;     /* position of the record in its list, from 0 */
    size_t line;       /* of the record's beginning, from 1 */
    const char *field; /* "bbox", ...; lives for ever */
    char value[48];    /* what came, white space joined, cut; UTF-8 */
} dd_coco_defect;

typedef struct dd_coco_image {
    int64_t id;
    int32_t width, height; /* 0: missing or wrong */
    size_t name;           /* offset of the NUL-terminated file_name in `names` */
    uint32_t line, index;  /* index: position in the file's list */
    /* LVIS' federated lists, neg_category_ids and not_exhaustive_category_ids: where the value
     * stands in the text; its length is 0 without one. */
    size_t negative, partial;
    uint32_t negative_bytes, partial_bytes;
} dd_coco_image;

typedef struct dd_coco_category {
    int64_t id;
    size_t name;
    uint32_t line, index;
    char frequency; /* LVIS' "r", "c" or "f"; 0 without one */
} dd_coco_category;

typedef struct dd_coco_annotation {
    int64_t id, image_id, category_id;
    double box[4];       /* x, y, w, h as written; NaN in a result that has none */
    double area;         /* as written; NaN: missing */
    double score;        /* of results */
    size_t segmentation; /* offset of its value in the text; its length is 0 without one */
    size_t keypoints;    /* the same of "keypoints" */
    uint32_t segmentation_bytes, keypoints_bytes, line, index;
    int32_t image, category; /* positions in images and categories; -1 in a result list */
    int32_t num_keypoints;   /* -1: missing */
    bool crowd;
} dd_coco_annotation;

/* A piece of a result list: rows of the fast lane, or (rows is NULL) annotations[first...]. */
typedef struct dd_coco_segment {
    const dd_coco_row *rows;
    size_t first, count;
    size_t index, line, lines; /* of the first record; lines from one to the next */
} dd_coco_segment;

#define DD_COCO_DEFECTS_KEPT 10000 /* the rest is only counted */

typedef struct dd_coco_file {
    bool has[DD_COCO_SECTIONS]; /* which sections came */
    dd_coco_image *images;
    size_t n_images;
    dd_coco_category *categories;
    size_t n_categories;
    dd_coco_annotation *annotations;
    size_t n_annotations;
    /* Of dd_coco_read_results: the list is these one after the other, and `annotations` is only
     * what they refer to. */
    dd_coco_segment *segments;
    size_t n_segments;
    dd_coco_lane lane;
    char *names;
    size_t names_length;
    dd_coco_defect *defects;                            /* in the order in which they were found */
    size_t n_defects;                                   /* kept ones */
    int64_t reasons[DD_COCO_SECTIONS][DD_COCO_REASONS]; /* all of them, counted */
} dd_coco_file;

/* Reads ground truth, or with `results` a list of detections (image_id, category_id, score, and
 * bbox, segmentation or keypoints).
 * text[length] must be a NUL byte; `name` stands in messages. The text is not kept. On failure
 * *out is untouched; else free it with dd_coco_file_free. DD_EFORMAT names line and byte. */
dd_status dd_coco_read(const char *text, size_t length, const char *name, bool results,
                       dd_coco_file *out);
void dd_coco_file_free(dd_coco_file *file);

/* A result list for dd_coco_columns_fill: what the fast lane read stays in its segments. */
dd_status dd_coco_read_results(const char *text, size_t length, const char *name,
                               dd_coco_file *out);

/* The columns of a result list, the caller's arrays of as many rows as dd_coco_results_count says.
 * Masks and keypoints may be NULL. Runs in the thread pool. */
typedef struct dd_coco_columns {
    int64_t *image_id, *category_id;
    double *box, *score; /* box: (n, 4) */
    uint64_t *segmentation, *keypoints;
    uint32_t *segmentation_bytes, *keypoints_bytes;
} dd_coco_columns;
size_t dd_coco_results_count(const dd_coco_file *file, bool *segmentation, bool *keypoints);
void dd_coco_columns_fill(const dd_coco_file *file, const dd_coco_columns *columns);

const char *dd_coco_reason_name(dd_coco_reason reason);    /* "duplicate_id", ... */
const char *dd_coco_section_name(dd_coco_section section); /* "annotations", ... */

#endif
