/* Ids to places, after the pass over the text, because sections may come in any order. */
#include "evaluate/coco_reader.h"
#include "evaluate/id_map.h"

typedef dd_coco_reader reader;

/* ---- ids ----------------------------------------------------------------------------------- */
/* Each pass keeps the sound records, in order, in the front of their array. */

/* Position of each image by id; the first of equals stays, as a user would see it in the file. */
static dd_status index_images(reader *r, dd_id_map *map) {
    dd_coco_file *file = r->file;
    size_t kept = 0;
    for (size_t i = 0; i < file->n_images; i++) {
        dd_coco_image *image = &file->images[i];
        bool added;
        DD_TRY(dd_id_map_add(map, image->id, (int64_t)kept, &added));
        if (added) {
            file->images[kept++] = *image;
            continue;
        }
        r->section = DD_COCO_IMAGES, r->index = image->index, r->line = image->line;
        DD_TRY(dd_coco_note_id(r, DD_COCO_DUPLICATE_ID, "id", image->id));
    }
    file->n_images = kept;
    return DD_OK;
}

/* The same for categories. */
static dd_status index_categories(reader *r, dd_id_map *map) {
    dd_coco_file *file = r->file;
    size_t kept = 0;
    for (size_t i = 0; i < file->n_categories; i++) {
        dd_coco_category *category = &file->categories[i];
        bool added;
        DD_TRY(dd_id_map_add(map, category->id, (int64_t)kept, &added));
        if (added) {
            file->categories[kept++] = *category;
            continue;
        }
        r->section = DD_COCO_CATEGORIES, r->index = category->index, r->line = category->line;
        DD_TRY(dd_coco_note_id(r, DD_COCO_DUPLICATE_ID, "id", category->id));
    }
    file->n_categories = kept;
    return DD_OK;
}

/* Gives annotations their positions and drops those that belong nowhere. A record has one defect
 * at the most here: the first that applies. */
static dd_status resolve_annotations(reader *r, const dd_id_map *images,
                                     const dd_id_map *categories, dd_id_map *ids) {
    dd_coco_file *file = r->file;
    size_t kept = 0;
    r->section = DD_COCO_ANNOTATIONS;
    DD_TRY(dd_id_map_reserve(ids, file->n_annotations));
    for (size_t i = 0; i < file->n_annotations; i++) {
        dd_coco_annotation a = file->annotations[i];
        bool added = true;
        r->index = a.index, r->line = a.line;
        a.image = (int32_t)dd_id_map_find(images, a.image_id);
        a.category = (int32_t)dd_id_map_find(categories, a.category_id);
        DD_TRY(dd_id_map_add(ids, a.id, (int64_t)i, &added));
        if (!added)
            DD_TRY(dd_coco_note_id(r, DD_COCO_DUPLICATE_ID, "id", a.id));
        else if (a.image < 0)
            DD_TRY(dd_coco_note_id(r, DD_COCO_UNKNOWN_IMAGE, "image_id", a.image_id));
        else if (a.category < 0)
            DD_TRY(dd_coco_note_id(r, DD_COCO_UNKNOWN_CATEGORY, "category_id", a.category_id));
        else
            file->annotations[kept++] = a;
    }
    file->n_annotations = kept;
    return DD_OK;
}

dd_status dd_coco_resolve(reader *r) {
    dd_status status = DD_OK;
    dd_id_map images = {0}, categories = {0}, ids = {0};
    if (r->file->n_images > INT32_MAX || r->file->n_categories > INT32_MAX)
        return dd_fail(DD_EVALUE, "%s: more than 2^31 images or categories", r->json.name);
    DD_TRY_DONE(index_images(r, &images));
    DD_TRY_DONE(index_categories(r, &categories));
    DD_TRY_DONE(resolve_annotations(r, &images, &categories, &ids));
done:
    dd_id_map_free(&images);
    dd_id_map_free(&categories);
    dd_id_map_free(&ids);
    return status;
}
