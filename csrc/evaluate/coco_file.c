/* Reading COCO files: one pass with the JSON cursor, straight into arrays of records.
 *
 * A field function reads one value. Where the value is of the wrong kind it skips it, notes a
 * defect and marks the record as unsound; the record's other fields are still read, because the
 * text must be checked to its end anyway and a second defect is worth telling. Fatal is only what
 * the cursor itself refuses.
 *
 * Memory: the file's text is the caller's. Records are kept once, in arrays that grow to the length
 * that the bytes so far foretell, so that reading stays near twice the file's size. */
#include "evaluate/coco_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/coco_reader.h"
#include "evaluate/coco_segments.h"
#include "evaluate/json.h"

typedef dd_coco_reader reader;

const char *dd_coco_reason_name(dd_coco_reason reason) {
    static const char *const names[] = {"missing_field", "wrong_type",        "bad_id",
                                        "duplicate_id",  "unknown_image",     "unknown_category",
                                        "bad_box",       "value_out_of_range"};
    return names[reason];
}

const char *dd_coco_section_name(dd_coco_section section) {
    static const char *const names[] = {"images", "annotations", "categories"};
    return names[section];
}

/* ---- defects ------------------------------------------------------------------------------- */

/* Copies n bytes of text as a NUL-terminated value of at most `room` bytes: white space within
 * becomes one blank, and what is too long is cut between characters and ends in dots. */
static void copy_value(char *out, size_t room, const char *value, size_t n) {
    size_t length = 0, cut = 0; /* cut: the last boundary that leaves room for the dots */
    for (size_t i = 0; i < n; i++) {
        char c = (unsigned char)value[i] <= ' ' ? ' ' : value[i];
        if (c == ' ' && length && out[length - 1] == ' ')
            continue;
        if (((unsigned char)c & 0xc0) != 0x80 && length + 4 <= room)
            cut = length;
        if (length + 1 == room) {
            memcpy(out + cut, "...", 4);
            return;
        }
        out[length++] = c;
    }
    out[length] = '\0';
}

/* Notes a defect of the record at hand; the value is n bytes of text. */
static dd_status note(reader *r, dd_coco_reason reason, const char *field, const char *value,
                      size_t n) {
    dd_coco_file *file = r->file;
    file->reasons[r->section][reason]++;
    if (file->n_defects == DD_COCO_DEFECTS_KEPT)
        return DD_OK;
    DD_TRY(dd_reserve(&file->defects, &r->defects_capacity, file->n_defects + 1,
                      sizeof *file->defects));
    dd_coco_defect *d = &file->defects[file->n_defects++];
    *d = (dd_coco_defect){r->section, reason, r->index, r->line, field, ""};
    copy_value(d->value, sizeof d->value, value, n);
    return DD_OK;
}

/* A field that did not come. Its record's line is all there is to say. */
static dd_status note_missing(reader *r, const char *field) {
    return note(r, DD_COCO_MISSING, field, "", 0);
}

/* Skips the value at the cursor and notes it as a defect. `drops`: the record goes too. */
static dd_status note_value(reader *r, dd_coco_reason reason, const char *field, bool drops) {
    (void)dd_json_peek(&r->json);
    size_t start = r->json.at;
    DD_TRY(dd_json_skip(&r->json));
    r->sound = r->sound && !drops;
    return note(r, reason, field, r->json.text + start, r->json.at - start);
}

/* A defect that was found after the pass, when only the number is left of the text. */
dd_status dd_coco_note_id(reader *r, dd_coco_reason reason, const char *field, int64_t id) {
    char text[24];
    int n = snprintf(text, sizeof text, "%lld", (long long)id);
    return note(r, reason, field, text, (size_t)n);
}

/* ---- fields -------------------------------------------------------------------------------- */

/* An id: *found tells whether one was read. */
static dd_status read_id(reader *r, const char *field, int64_t *id, bool *found) {
    if (dd_json_peek(&r->json) != DD_JSON_NUMBER)
        return note_value(r, DD_COCO_WRONG_TYPE, field, true);
    dd_status status = dd_json_int(&r->json, id);
    if (status == DD_EVALUE)
        return note_value(r, DD_COCO_BAD_ID, field, true);
    *found = status == DD_OK;
    return status;
}

/* A number that the record needs, or may have. */
static dd_status read_number(reader *r, const char *field, double *number, bool *found) {
    if (dd_json_peek(&r->json) != DD_JSON_NUMBER)
        return note_value(r, DD_COCO_WRONG_TYPE, field, true);
    *found = true;
    return dd_json_number(&r->json, number);
}

/* A side of an image. 0 stays where the value is no whole number from 1 to 2^31 - 1. */
static dd_status read_side(reader *r, const char *field, int32_t *side, bool *found) {
    *found = true;
    if (dd_json_peek(&r->json) != DD_JSON_NUMBER)
        return note_value(r, DD_COCO_WRONG_TYPE, field, false);
    int64_t value = 0;
    size_t start = r->json.at;
    dd_status status = dd_json_int(&r->json, &value);
    if (status == DD_EVALUE)
        return note_value(r, DD_COCO_BAD_VALUE, field, false);
    DD_TRY(status);
    if (value < 1 || value > INT32_MAX)
        return note(r, DD_COCO_BAD_VALUE, field, r->json.text + start, r->json.at - start);
    *side = (int32_t)value;
    return DD_OK;
}

/* iscrowd: COCO writes 0 and 1, some tools false and true. Another number is refused, because
 * pycocotools would take it for a crowd and others for none. */
static dd_status read_crowd(reader *r, bool *crowd) {
    dd_json_kind kind = dd_json_peek(&r->json);
    if (kind == DD_JSON_BOOL)
        return dd_json_bool(&r->json, crowd);
    if (kind != DD_JSON_NUMBER)
        return note_value(r, DD_COCO_WRONG_TYPE, "iscrowd", true);
    int64_t value = 0;
    size_t start = r->json.at;
    dd_status status = dd_json_int(&r->json, &value);
    if (status == DD_EVALUE)
        return note_value(r, DD_COCO_BAD_VALUE, "iscrowd", true);
    DD_TRY(status);
    *crowd = value == 1;
    if (value == 0 || value == 1)
        return DD_OK;
    r->sound = false;
    return note(r, DD_COCO_BAD_VALUE, "iscrowd", r->json.text + start, r->json.at - start);
}

/* bbox: exactly four numbers. Anything else is a defect, whose text is read to its end; but a
 * result may have an empty list, which pycocotools takes for no box. */
static dd_status read_box(reader *r, double box[4], bool *found) {
    if (dd_json_peek(&r->json) != DD_JSON_ARRAY)
        return note_value(r, DD_COCO_WRONG_TYPE, "bbox", true);
    size_t start = r->json.at;
    bool more, good = true;
    int n = 0;
    DD_TRY(dd_json_array(&r->json));
    for (;; n++) {
        DD_TRY(dd_json_item(&r->json, &more));
        if (!more)
            break;
        good = good && n < 4 && dd_json_peek(&r->json) == DD_JSON_NUMBER;
        if (good)
            DD_TRY(dd_json_number(&r->json, &box[n]));
        else
            DD_TRY(dd_json_skip(&r->json));
    }
    *found = good && n == 4;
    if (*found || (r->results && !n))
        return DD_OK;
    box[0] = NAN;
    r->sound = false;
    return note(r, DD_COCO_BAD_BOX, "bbox", r->json.text + start, r->json.at - start);
}

/* Puts a name into the pool; a NUL in it ("\u0000") would cut it short and is a defect. */
static dd_status read_name(reader *r, const char *field, size_t *offset, bool *found) {
    dd_coco_file *file = r->file;
    *found = true;
    if (dd_json_peek(&r->json) != DD_JSON_STRING)
        return note_value(r, DD_COCO_WRONG_TYPE, field, false);
    dd_json_text text;
    DD_TRY(dd_json_string(&r->json, &text));
    DD_TRY(dd_reserve(&file->names, &r->names_capacity, file->names_length + text.length + 1, 1));
    char *name = file->names + file->names_length;
    size_t n = dd_json_unescape(&text, name);
    if (memchr(name, 0, n))
        return note(r, DD_COCO_BAD_VALUE, field, text.data, text.length);
    name[n] = '\0';
    *offset = file->names_length;
    file->names_length += n + 1;
    return DD_OK;
}

/* ---- records ------------------------------------------------------------------------------- */

/* Room for one more record. The first 32 tell how many bytes of text a record takes, so that one
 * growth to the list's probable length follows instead of doublings (memory stays near the
 * file's size). */
static dd_status make_room(reader *r, void *pointer, size_t *capacity, size_t count, size_t size) {
    if (count < *capacity)
        return DD_OK;
    size_t wanted = 32;
    if (count) {
        size_t each = (r->json.at - r->section_at) / (size_t)(r->index ? r->index : 1) + 1;
        wanted = count + count / 8 + (r->json.length - r->json.at) / each + 16;
    }
    DD_TRY(dd_realloc_array(pointer, wanted, size));
    *capacity = wanted;
    return DD_OK;
}

/* Enters the record at the cursor. */
static dd_status begin_record(reader *r) {
    if (dd_json_peek(&r->json) != DD_JSON_OBJECT) {
        char what[96];
        snprintf(what, sizeof what, "%s came in %s, an object was needed",
                 dd_json_kind_name(dd_json_peek(&r->json)), dd_coco_section_name(r->section));
        return dd_json_fail(&r->json, what);
    }
    r->line = dd_json_line(&r->json);
    r->sound = true;
    return dd_json_object(&r->json);
}

/* Skips the value at the cursor and tells where it stands. */
static dd_status read_place(reader *r, size_t *at, uint32_t *bytes) {
    (void)dd_json_peek(&r->json);
    size_t start = r->json.at;
    DD_TRY(dd_json_skip(&r->json));
    if (r->json.at - start <= UINT32_MAX) {
        *at = start;
        *bytes = (uint32_t)(r->json.at - start);
    }
    return DD_OK;
}

/* The last two parts of the URL at `offset` of the pool: folder and file. */
static size_t tail_of_url(const dd_coco_file *file, size_t offset) {
    const char *url = file->names + offset;
    size_t slashes = 0, at = strlen(url);
    while (at && (slashes += url[at - 1] == '/') < 2)
        at--;
    return offset + at;
}

/* An image. Only its id is vital: evaluation needs no size, and a data set reader finds size and
 * file by itself, so a wrong one is a defect that leaves the record in. */
static dd_status read_image(reader *r) {
    dd_coco_image image = {.line = (uint32_t)r->line, .index = (uint32_t)r->index};
    bool has_id = false, has_width = false, has_height = false, has_name = false, has_url = false;
    bool more;
    size_t url = 0;
    dd_json_text key;
    for (;;) {
        DD_TRY(dd_json_key(&r->json, &key, &more));
        if (!more)
            break;
        if (dd_json_is(&key, "id"))
            DD_TRY(read_id(r, "id", &image.id, &has_id));
        else if (dd_json_is(&key, "width"))
            DD_TRY(read_side(r, "width", &image.width, &has_width));
        else if (dd_json_is(&key, "height"))
            DD_TRY(read_side(r, "height", &image.height, &has_height));
        else if (dd_json_is(&key, "file_name"))
            DD_TRY(read_name(r, "file_name", &image.name, &has_name));
        else if (dd_json_is(&key, "coco_url") && !has_name &&
                 dd_json_peek(&r->json) == DD_JSON_STRING)
            DD_TRY(read_name(r, "coco_url", &url, &has_url));
        else if (dd_json_is(&key, "neg_category_ids"))
            DD_TRY(read_place(r, &image.negative, &image.negative_bytes));
        else if (dd_json_is(&key, "not_exhaustive_category_ids"))
            DD_TRY(read_place(r, &image.partial, &image.partial_bytes));
        else
            DD_TRY(dd_json_skip(&r->json));
    }
    if (!has_name && url) {
        image.name = tail_of_url(r->file, url);
        has_name = true;
    }
    if (!has_width)
        DD_TRY(note_missing(r, "width"));
    if (!has_height)
        DD_TRY(note_missing(r, "height"));
    if (!has_name)
        DD_TRY(note_missing(r, "file_name"));
    if (!has_id)
        return r->sound ? note_missing(r, "id") : DD_OK;
    dd_coco_file *file = r->file;
    DD_TRY(make_room(r, &file->images, &r->images_capacity, file->n_images, sizeof image));
    file->images[file->n_images++] = image;
    return DD_OK;
}

/* A category. A name that is missing stays empty. */
static dd_status read_category(reader *r) {
    dd_coco_category category = {.line = (uint32_t)r->line, .index = (uint32_t)r->index};
    bool has_id = false, has_name = false, more;
    dd_json_text key;
    for (;;) {
        DD_TRY(dd_json_key(&r->json, &key, &more));
        if (!more)
            break;
        if (dd_json_is(&key, "id"))
            DD_TRY(read_id(r, "id", &category.id, &has_id));
        else if (dd_json_is(&key, "name"))
            DD_TRY(read_name(r, "name", &category.name, &has_name));
        else if (dd_json_is(&key, "frequency") && dd_json_peek(&r->json) == DD_JSON_STRING) {
            dd_json_text text;
            DD_TRY(dd_json_string(&r->json, &text));
            category.frequency = text.length == 1 ? text.data[0] : 0;
        } else
            DD_TRY(dd_json_skip(&r->json));
    }
    if (!has_name)
        DD_TRY(note_missing(r, "name"));
    if (!has_id)
        return r->sound ? note_missing(r, "id") : DD_OK;
    dd_coco_file *file = r->file;
    DD_TRY(make_room(r, &file->categories, &r->categories_capacity, file->n_categories,
                     sizeof category));
    file->categories[file->n_categories++] = category;
    return DD_OK;
}

/* num_keypoints: a count, or it is passed over like any unknown value. */
static dd_status read_count(reader *r, int32_t *count) {
    int64_t value = -1;
    if (dd_json_peek(&r->json) != DD_JSON_NUMBER)
        return dd_json_skip(&r->json);
    dd_status status = dd_json_int(&r->json, &value);
    if (status == DD_EVALUE)
        return dd_json_skip(&r->json);
    *count = value >= 0 && value <= INT32_MAX ? (int32_t)value : -1;
    return status;
}

/* The bits of `seen` below. */
enum { HAS_ID = 1, HAS_IMAGE = 2, HAS_CATEGORY = 4, HAS_BOX = 8, HAS_SCORE = 16, HAS_AREA = 32 };

/* Reads the value of one key of an annotation; adds to *seen what the key gave. */
static dd_status read_annotation_field(reader *r, const dd_json_text *key, dd_coco_annotation *a,
                                       int *seen) {
    bool found = false;
    int bit = 0;
    if (dd_json_is(key, "image_id")) {
        DD_TRY(read_id(r, "image_id", &a->image_id, &found));
        bit = HAS_IMAGE;
    } else if (dd_json_is(key, "category_id")) {
        DD_TRY(read_id(r, "category_id", &a->category_id, &found));
        bit = HAS_CATEGORY;
    } else if (dd_json_is(key, "bbox")) {
        DD_TRY(read_box(r, a->box, &found));
        bit = HAS_BOX;
    } else if (r->results && dd_json_is(key, "score")) {
        DD_TRY(read_number(r, "score", &a->score, &found));
        bit = HAS_SCORE;
    } else if (!r->results && dd_json_is(key, "id")) {
        DD_TRY(read_id(r, "id", &a->id, &found));
        bit = HAS_ID;
    } else if (!r->results && dd_json_is(key, "area")) {
        DD_TRY(read_number(r, "area", &a->area, &found));
        bit = HAS_AREA;
    } else if (!r->results && dd_json_is(key, "iscrowd")) {
        DD_TRY(read_crowd(r, &a->crowd));
    } else if (dd_json_is(key, "segmentation")) {
        return read_place(r, &a->segmentation, &a->segmentation_bytes);
    } else if (dd_json_is(key, "keypoints")) {
        return read_place(r, &a->keypoints, &a->keypoints_bytes);
    } else if (!r->results && dd_json_is(key, "num_keypoints")) {
        return read_count(r, &a->num_keypoints);
    } else {
        DD_TRY(dd_json_skip(&r->json));
    }
    *seen |= found ? bit : 0;
    return DD_OK;
}

/* An annotation, or a result: all of its fields are vital but area, iscrowd and segmentation. */
static dd_status read_annotation(reader *r) {
    dd_coco_annotation a = {.box = {NAN, 0, 0, 0},
                            .area = NAN,
                            .num_keypoints = -1,
                            .line = (uint32_t)r->line,
                            .index = (uint32_t)r->index,
                            .image = -1,
                            .category = -1};
    int seen = 0;
    bool more;
    dd_json_text key;
    for (;;) {
        DD_TRY(dd_json_key(&r->json, &key, &more));
        if (!more)
            break;
        DD_TRY(read_annotation_field(r, &key, &a, &seen));
    }
    static const struct {
        int bit;
        const char *field;
    } needed[] = {{HAS_ID, "id"},
                  {HAS_IMAGE, "image_id"},
                  {HAS_CATEGORY, "category_id"},
                  {HAS_BOX, "bbox"},
                  {HAS_SCORE, "score"}};
    /* A result may be a mask or keypoints alone. */
    if (r->results && (a.segmentation_bytes || a.keypoints_bytes))
        seen |= HAS_BOX;
    /* A field that came and was wrong has its defect already; name only what did not come. */
    if (r->sound)
        for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
            if (seen & needed[i].bit || needed[i].bit == (r->results ? HAS_ID : HAS_SCORE))
                continue;
            r->sound = false;
            DD_TRY(note_missing(r, needed[i].field));
        }
    if (!r->sound)
        return DD_OK;
    dd_coco_file *file = r->file;
    DD_TRY(
        make_room(r, &file->annotations, &r->annotations_capacity, file->n_annotations, sizeof a));
    file->annotations[file->n_annotations++] = a;
    return DD_OK;
}

/* ---- the fast lane ------------------------------------------------------------------------- */

/* The last segment, if it is of annotations and of the strict reader; else a new one. */
static dd_status strict_segment(reader *r) {
    dd_coco_file *f = r->file;
    if (f->n_segments && !f->segments[f->n_segments - 1].rows)
        return DD_OK;
    DD_TRY(dd_reserve(&f->segments, &r->segments_capacity, f->n_segments + 1, sizeof *f->segments));
    f->segments[f->n_segments++] = (dd_coco_segment){.first = f->n_annotations - 1};
    return DD_OK;
}

/* The strict reader's record belongs to a segment, too, once there is a lane. */
static dd_status count_strict(reader *r, size_t before) {
    if (!r->results || r->file->n_annotations == before)
        return DD_OK;
    DD_TRY(strict_segment(r));
    r->file->segments[r->file->n_segments - 1].count++;
    return DD_OK;
}

/* After the list's first record, from text[first] to the cursor: opens the lane. */
static dd_status open_lane(reader *r, size_t first) {
    if (r->section != DD_COCO_ANNOTATIONS || !r->sound || r->file->lane.runs)
        return DD_OK;
    return dd_coco_lane_read(r->json.text, r->json.length, first, r->json.at, r->results,
                             &r->file->lane);
}

/* Records of a data set become annotations at once, since their ids are to be looked up. */
static dd_status take_rows(reader *r, const dd_coco_run *run, size_t line, size_t lines) {
    dd_coco_file *f = r->file;
    DD_TRY(dd_reserve(&f->annotations, &r->annotations_capacity, f->n_annotations + run->count,
                      sizeof *f->annotations));
    for (size_t i = 0; i < run->count; i++)
        f->annotations[f->n_annotations++] =
            dd_coco_annotation_of(&run->rows[i], r->results, line + i * lines, r->index + i);
    return DD_OK;
}

/* Takes over what the lane has read from the cursor (an item's beginning) on, if anything. */
static dd_status take_run(reader *r, bool *taken) {
    dd_coco_lane *lane = &r->file->lane;
    *taken = false;
    if (r->section != DD_COCO_ANNOTATIONS || !lane->runs)
        return DD_OK;
    (void)dd_json_peek(&r->json);
    while (r->next_run < lane->n_runs &&
           (lane->runs[r->next_run].begin < r->json.at || !lane->runs[r->next_run].count))
        r->next_run++;
    if (r->next_run == lane->n_runs || lane->runs[r->next_run].begin != r->json.at)
        return DD_OK;
    const dd_coco_run *run = &lane->runs[r->next_run++];
    size_t line = dd_json_line(&r->json), lines = lane->record_lines + lane->separator_lines;
    dd_coco_file *f = r->file;
    if (r->results) {
        DD_TRY(dd_reserve(&f->segments, &r->segments_capacity, f->n_segments + 1,
                          sizeof *f->segments));
        f->segments[f->n_segments++] =
            (dd_coco_segment){run->rows, 0, run->count, (size_t)r->index, line, lines};
    } else {
        DD_TRY(take_rows(r, run, line, lines));
    }
    r->json.at = r->json.line_at = run->end;
    r->json.line = line + run->count * lines - lane->separator_lines;
    r->index += (int64_t)run->count - 1;
    *taken = true;
    return DD_OK;
}

/* A list of records: the cursor stands on the list. */
static dd_status read_section(reader *r, dd_coco_section section) {
    static dd_status (*const read_record[])(reader *) = {read_image, read_annotation,
                                                         read_category};
    bool more, taken;
    r->section = section;
    r->file->has[section] = true;
    DD_TRY(dd_json_array(&r->json));
    r->section_at = r->json.at;
    for (r->index = 0;; r->index++) {
        DD_TRY(dd_json_item(&r->json, &more));
        if (!more)
            return DD_OK;
        DD_TRY(take_run(r, &taken));
        if (taken)
            continue;
        size_t first = r->json.at, before = r->file->n_annotations;
        DD_TRY(begin_record(r));
        DD_TRY(read_record[section](r));
        if (section == DD_COCO_ANNOTATIONS)
            DD_TRY(count_strict(r, before));
        if (r->index == 0)
            DD_TRY(open_lane(r, first));
    }
}

/* ---- the file ------------------------------------------------------------------------------ */

/* The root object: three sections of ours, in any order; info, licenses and the rest are skipped.
 */
static dd_status read_ground_truth(reader *r) {
    dd_json_text key;
    bool more;
    if (dd_json_peek(&r->json) == DD_JSON_ARRAY)
        return dd_json_fail(&r->json, "a list came (results?), an object with images, annotations "
                                      "and categories was needed");
    DD_TRY(dd_json_object(&r->json));
    for (;;) {
        DD_TRY(dd_json_key(&r->json, &key, &more));
        if (!more)
            return DD_OK;
        int section = 0;
        while (section < DD_COCO_SECTIONS &&
               !dd_json_is(&key, dd_coco_section_name((dd_coco_section)section)))
            section++;
        if (section < DD_COCO_SECTIONS)
            DD_TRY(read_section(r, (dd_coco_section)section));
        else
            DD_TRY(dd_json_skip(&r->json));
    }
}

/* The whole text; results keep their segments. */
static dd_status read_file(const char *text, size_t length, const char *name, bool results,
                           dd_coco_file *out) {
    dd_status status = DD_OK;
    dd_coco_file file = {0};
    reader r = {.file = &file, .results = results};
    dd_json_begin(&r.json, text, length, name);
    /* Offset 0 of the pool is the empty name that records without a name share. */
    DD_TRY_DONE(dd_reserve(&file.names, &r.names_capacity, 1, 1));
    file.names[file.names_length++] = '\0';
    if (results)
        DD_TRY_DONE(read_section(&r, DD_COCO_ANNOTATIONS));
    else
        DD_TRY_DONE(read_ground_truth(&r));
    DD_TRY_DONE(dd_json_end(&r.json));
    if (!results) {
        DD_TRY_DONE(dd_coco_resolve(&r));
        dd_coco_lane_free(&file.lane);
    }
    *out = file;
    file = (dd_coco_file){0};
done:
    dd_json_free(&r.json);
    dd_coco_file_free(&file);
    return status;
}

dd_status dd_coco_read_results(const char *text, size_t length, const char *name,
                               dd_coco_file *out) {
    return read_file(text, length, name, true, out);
}

dd_status dd_coco_read(const char *text, size_t length, const char *name, bool results,
                       dd_coco_file *out) {
    dd_coco_file file;
    DD_TRY(read_file(text, length, name, results, &file));
    dd_status status = dd_coco_segments_join(&file);
    if (status == DD_OK)
        *out = file;
    else
        dd_coco_file_free(&file);
    return status;
}

void dd_coco_file_free(dd_coco_file *file) {
    dd_free(file->images);
    dd_free(file->categories);
    dd_free(file->annotations);
    dd_free(file->segments);
    dd_coco_lane_free(&file->lane);
    dd_free(file->names);
    dd_free(file->defects);
    *file = (dd_coco_file){0};
}
