/* The masks of a COCO file's annotations: polygons, run lengths and compressed run lengths out of
 * the file's text into regions, in the thread pool. */
#ifndef DD_EVALUATE_MASK_FILE_H
#define DD_EVALUATE_MASK_FILE_H

#include "evaluate/region.h"

typedef struct dd_mask_source { /* all borrowed */
    const char *name;           /* of the file, for messages */
    const char *text;           /* text[length] is a NUL byte */
    size_t length, n;
    const uint64_t *at;    /* (n) offsets of the "segmentation" values, JSON that was checked */
    const uint32_t *bytes; /* (n) 0: there is none, the mask is the box */
    const int32_t *h, *w;  /* (n) the image's sizes; 0 where unknown */
    const double *box;     /* (n, 4) x, y, w, h; NaN where there is none */
} dd_mask_source;

typedef struct dd_mask_set {
    size_t n, n_blocks;
    dd_region *regions; /* (n) */
    dd_runs *blocks;    /* what the regions borrow */
} dd_mask_set;

/* A list is polygons, an object {"size": [h, w], "counts": text or list} run lengths. Where neither
 * mask nor box is there the region is empty and of size 0. DD_EFORMAT or DD_EVALUE with the place
 * of the first mask that is wrong. Free with dd_mask_set_free. */
dd_status dd_mask_set_read(const dd_mask_source *source, dd_mask_set *out);
void dd_mask_set_free(dd_mask_set *set);

#endif
