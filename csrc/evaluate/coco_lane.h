/* The fast lane of the COCO reader: lists of records that all look like their first one.
 *
 * Programs write the records of a list with the same keys in the same order, so everything between
 * two values is the same text. The first record, which the strict reader has checked, is taken for
 * a template: the lane compares that text and reads only the values, in pieces of the file side by
 * side. A record that is different in any way (another order, a string where a number was, an
 * exponent) ends a piece's run, and the strict reader takes over from there; so the lane accepts
 * nothing that it would not, and every error message is the strict reader's. */
#ifndef DD_EVALUATE_COCO_LANE_H
#define DD_EVALUATE_COCO_LANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct dd_coco_row { /* a sound record */
    int64_t id, image_id, category_id;
    double box[4];
    double value; /* score of a result, area of an annotation (NaN: missing) */
    uint64_t segmentation, keypoints;
    uint32_t segmentation_bytes, keypoints_bytes;
    int32_t num_keypoints;
    bool crowd;
} dd_coco_row;

/* A run of records: text[begin..end) from the first one's brace to the last one's. */
typedef struct dd_coco_run {
    size_t begin, end;
    dd_coco_row *rows;
    size_t count;
} dd_coco_run;

typedef struct dd_coco_lane {
    dd_coco_run *runs; /* by begin; empty ones have count 0 */
    size_t n_runs;
    dd_coco_row *rows;                    /* room of all runs, with gaps */
    size_t record_lines, separator_lines; /* newlines in a record, between two */
} dd_coco_lane;

/* Reads text[from..length) by the record text[first..first_end), which must be a sound annotation
 * (or, with `results`, a result). Zero runs where the lane does not pay or the record has no fixed
 * form. DD_ENOMEM. Free with dd_coco_lane_free. */
dd_status dd_coco_lane_read(const char *text, size_t length, size_t first, size_t first_end,
                            bool results, dd_coco_lane *out);
void dd_coco_lane_free(dd_coco_lane *lane);

#endif
