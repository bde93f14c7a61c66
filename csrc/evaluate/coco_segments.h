/* Rows of the fast lane as annotations; internal to the COCO reader. */
#ifndef DD_EVALUATE_COCO_SEGMENTS_H
#define DD_EVALUATE_COCO_SEGMENTS_H

#include "evaluate/coco_file.h"

/* A row as the strict reader would have made it, at a line and a place in its list. */
dd_coco_annotation dd_coco_annotation_of(const dd_coco_row *row, bool results, size_t line,
                                         size_t index);

/* Puts all segments into one list of annotations and gives up segments and lane. DD_ENOMEM. */
dd_status dd_coco_segments_join(dd_coco_file *file);

#endif
