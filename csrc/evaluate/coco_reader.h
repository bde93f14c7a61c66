/* The COCO reader's state, for the files that it is made of: coco_file.c (text to records) and
 * coco_ids.c (records to places). */
#ifndef DD_EVALUATE_COCO_READER_H
#define DD_EVALUATE_COCO_READER_H

#include "evaluate/coco_file.h"
#include "evaluate/json.h"

/* One pass over the text. A record is read into a local, then appended if it is sound. Ids are
 * resolved after the pass, because sections may come in any order. */
typedef struct dd_coco_reader {
    dd_json json;
    dd_coco_file *file;
    bool results;
    dd_coco_section section;
    int64_t index; /* of the record */
    size_t line;   /* of the record */
    size_t section_at;
    size_t images_capacity, categories_capacity, annotations_capacity, names_capacity,
        defects_capacity;
    bool sound;                         /* no defect yet that drops the record */
    size_t segments_capacity, next_run; /* of the fast lane */
} dd_coco_reader;

/* Notes a defect of r->section, r->index and r->line that was found after the pass, when only the
 * number is left of the text. */
dd_status dd_coco_note_id(dd_coco_reader *r, dd_coco_reason reason, const char *field, int64_t id);

/* Looks up the ids of all annotations; those that are of no image or category, or come twice, are
 * noted and left out. */
dd_status dd_coco_resolve(dd_coco_reader *r);

#endif
