/* The keypoints of a COCO file's annotations out of the file's text. */
#ifndef DD_EVALUATE_POINTS_FILE_H
#define DD_EVALUATE_POINTS_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct dd_points_source { /* all borrowed */
    const char *name;             /* of the file, for messages */
    const char *text;             /* text[length] is a NUL byte */
    size_t length, n;
    const uint64_t *at;    /* (n) offsets of the "keypoints" values, JSON that was checked */
    const uint32_t *bytes; /* (n) 0: there is none */
} dd_points_source;

/* How many numbers the first keypoints have; 0 where there are none at all. */
dd_status dd_points_count(const dd_points_source *source, size_t *count);

/* Fills out (n, count); zeros where an annotation has none. DD_EFORMAT where one is no list of
 * `count` numbers. */
dd_status dd_points_read(const dd_points_source *source, size_t count, double *out);

#endif
