/* Numbers are read eight digits at a time without a branch for their length, which is what a byte
 * by byte loop spends its time on: the processor guesses each number's end wrong. Lists of numbers
 * and masks are only passed over, by number_list.c or by the strict cursor. */
#include "evaluate/coco_lane.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "evaluate/json.h"
#include "evaluate/number_list.h"

#define MAX_FIELDS 16
#define PIECE ((size_t)256 << 10) /* bytes of text of a unit of work */
#define SLACK 64                  /* the lane stops that many bytes before the text's end */
#define RUNS 32                   /* of a piece: so often records may be different */

typedef enum kind {
    ID,
    IMAGE_ID,
    CATEGORY_ID,
    BOX,
    VALUE,
    CROWD,
    SEGMENTATION,
    KEYPOINTS,
    NUM_KEYPOINTS,
    OTHER,
} kind;

typedef struct field {
    const char *before; /* text between the previous value and this one */
    size_t before_bytes;
    kind kind;
} field;

typedef struct pattern {
    field fields[MAX_FIELDS];
    int n;
    const char *after; /* the text behind the last value, with the closing brace */
    size_t after_bytes;
    const char *separator;
    size_t separator_bytes;
    size_t least_bytes; /* no record is shorter */
    bool results;
} pattern;

typedef struct job {
    const char *text;
    size_t length, from;
    const pattern *pattern;
    dd_coco_lane *lane;
    size_t room; /* rows of a piece */
} job;

/* ---- the pattern --------------------------------------------------------------------------- */

static kind kind_of(const dd_json_text *key, bool results) {
    static const struct {
        const char *name;
        kind kind;
        int sides; /* 1: annotations, 2: results */
    } known[] = {{"image_id", IMAGE_ID, 3},
                 {"category_id", CATEGORY_ID, 3},
                 {"bbox", BOX, 3},
                 {"segmentation", SEGMENTATION, 3},
                 {"keypoints", KEYPOINTS, 3},
                 {"score", VALUE, 2},
                 {"area", VALUE, 1},
                 {"id", ID, 1},
                 {"iscrowd", CROWD, 1},
                 {"num_keypoints", NUM_KEYPOINTS, 1}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].sides & (results ? 2 : 1) && dd_json_is(key, known[i].name))
            return known[i].kind;
    return OTHER;
}

/* The comma and white space between two records; 0 bytes where no record follows. */
static void find_separator(const char *text, size_t length, size_t end, pattern *p) {
    size_t at = end, commas = 0;
    while (at < length && (strchr(" \t\r\n", text[at]) || (text[at] == ',' && !commas))) {
        commas += text[at] == ',';
        at++;
    }
    p->separator = text + end;
    p->separator_bytes = commas && at < length && text[at] == '{' ? at - end : 0;
}

/* Walks the record, which is known to be right. False where it does not fit the lane. */
static bool make_pattern(const char *text, size_t length, size_t first, size_t end, bool results,
                         pattern *p) {
    dd_json json;
    dd_json_text key;
    bool more, fits = true;
    size_t before = first;
    *p = (pattern){.results = results};
    dd_json_begin(&json, text, length, "");
    json.at = first;
    fits = dd_json_object(&json) == DD_OK;
    while (fits && (fits = dd_json_key(&json, &key, &more) == DD_OK) && more) {
        (void)dd_json_peek(&json);
        if (p->n == MAX_FIELDS) {
            fits = false;
            break;
        }
        p->fields[p->n++] = (field){text + before, json.at - before, kind_of(&key, results)};
        p->least_bytes += json.at - before + 1;
        fits = dd_json_skip(&json) == DD_OK;
        before = json.at;
    }
    fits = fits && json.at == end && p->n;
    dd_json_free(&json);
    p->after = text + before;
    p->after_bytes = end - before;
    p->least_bytes += p->after_bytes;
    find_separator(text, length, end, p);
    return fits && p->separator_bytes;
}

/* ---- values -------------------------------------------------------------------------------- */
/* Each function returns the place behind the value, or NULL where the strict reader must look. */

static uint64_t load8(const char *p) {
    uint64_t v;
    memcpy(&v, p, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

/* The digits at p, up to 8, as a number; *count is how many they are. */
static uint64_t read_digits(const char *p, unsigned *count) {
    uint64_t v = load8(p) ^ 0x3030303030303030u;
    /* A byte above 9 gets its high bit; a carry only spoils bytes behind the first such one. */
    uint64_t other = ((v + 0x7676767676767676u) | v) & 0x8080808080808080u;
    unsigned n = other ? (unsigned)__builtin_ctzll(other) / 8 : 8;
    *count = n;
    v = n ? v << (64 - 8 * n) : 0; /* zeros in front */
    v = v * 10 + (v >> 8);
    return ((v & 0x000000ff000000ff) * 0x000f424000000064 +
            ((v >> 16) & 0x000000ff000000ff) * 0x0000271000000001) >>
           32;
}

/* A whole number of up to 15 digits without a sign. */
static const char *read_whole(const char *p, int64_t *out) {
    unsigned n, more = 0;
    uint64_t value = read_digits(p, &n);
    if (!n || (*p == '0' && n > 1))
        return NULL;
    if (n == 8) {
        static const uint32_t powers[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000};
        uint64_t low = read_digits(p + 8, &more);
        if (more == 8)
            return NULL;
        value = value * powers[more] + low;
    }
    *out = (int64_t)value;
    return p + n + more;
}

/* A number; those with an exponent and those that are too long to be exact in one step go through
 * the strict reader's own conversion. */
static const char *read_number(const char *p, double *out) {
    static const double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8};
    static const uint32_t whole_powers[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000};
    const char *start = p;
    bool negative = *p == '-';
    p += negative;
    unsigned n, fraction = 0;
    uint64_t value = read_digits(p, &n);
    if (!n || (*p == '0' && n > 1))
        return NULL;
    p += n;
    if (*p == '.') {
        uint64_t low = read_digits(p + 1, &fraction);
        if (!fraction)
            return NULL;
        p += 1 + fraction;
        if (n + fraction < 16 && fraction < 8 && (*p | 32) != 'e') {
            double whole = (double)(value * whole_powers[fraction] + low);
            double number = whole / powers[fraction];
            *out = negative ? -number : number;
            return p;
        }
    } else if (n < 8 && (*p | 32) != 'e') {
        *out = negative ? -(double)value : (double)value;
        return p;
    }
    bool dot = fraction > 0;
    for (; (*p >= '0' && *p <= '9') || (*p == '.' && !dot); p++)
        dot = dot || *p == '.';
    if (p[-1] == '.')
        return NULL;
    if ((*p | 32) == 'e') {
        p += p[1] == '-' || p[1] == '+' ? 2 : 1;
        if (*p < '0' || *p > '9')
            return NULL;
        while (*p >= '0' && *p <= '9')
            p++;
    }
    *out = dd_json_decimal(start, (size_t)(p - start));
    return isfinite(*out) ? p : NULL;
}

/* [x, y, w, h] with the separators of json.dump, or without its blanks. */
static const char *read_box(const char *p, double box[4]) {
    if (*p++ != '[')
        return NULL;
    for (int i = 0; i < 4; i++) {
        if (i) {
            if (*p++ != ',')
                return NULL;
            p += *p == ' ';
        }
        p = read_number(p, &box[i]);
        if (!p)
            return NULL;
    }
    return *p == ']' ? p + 1 : NULL;
}

/* Passes over a value and notes where it stands. */
static const char *read_place(dd_json *json, const char *p, uint64_t *at, uint32_t *bytes) {
    const char *end = dd_number_list_end(p, json->text + json->length - SLACK);
    if (!end) {
        json->at = (size_t)(p - json->text);
        if (dd_json_peek(json) == DD_JSON_END || dd_json_skip(json) != DD_OK)
            return NULL;
        end = json->text + json->at;
    }
    /* A line break within would spoil the count of lines. */
    if (end - p > UINT32_MAX || memchr(p, '\n', (size_t)(end - p)))
        return NULL;
    *at = (uint64_t)(p - json->text);
    *bytes = (uint32_t)(end - p);
    return end;
}

static const char *read_value(dd_json *json, kind kind, const char *p, dd_coco_row *row) {
    uint64_t at;
    uint32_t bytes;
    int64_t whole = 0;
    switch (kind) {
    case ID:
        return read_whole(p, &row->id);
    case IMAGE_ID:
        return read_whole(p, &row->image_id);
    case CATEGORY_ID:
        return read_whole(p, &row->category_id);
    case BOX:
        return read_box(p, row->box);
    case VALUE:
        return read_number(p, &row->value);
    case CROWD:
        row->crowd = *p == '1';
        return *p == '0' || *p == '1' ? p + 1 : NULL;
    case NUM_KEYPOINTS:
        p = read_whole(p, &whole);
        row->num_keypoints = (int32_t)whole;
        return p && whole <= INT32_MAX ? p : NULL;
    case SEGMENTATION:
        return read_place(json, p, &row->segmentation, &row->segmentation_bytes);
    case KEYPOINTS:
        return read_place(json, p, &row->keypoints, &row->keypoints_bytes);
    default:
        return read_place(json, p, &at, &bytes);
    }
}

/* ---- records ------------------------------------------------------------------------------- */

/* memcmp for short texts of at least 8 bytes: two loads each instead of a call. */
static bool same_text(const char *a, const char *b, size_t n) {
    if (n < 8)
        return memcmp(a, b, n) == 0;
    for (size_t i = 0; i + 8 < n; i += 8)
        if (load8(a + i) != load8(b + i))
            return false;
    return load8(a + n - 8) == load8(b + n - 8);
}

/* One record at p; the place behind its brace, or NULL. */
static const char *read_record(const pattern *pattern, dd_json *json, const char *p,
                               const char *limit, dd_coco_row *row) {
    *row = (dd_coco_row){.box = {NAN, 0, 0, 0}, .value = NAN, .num_keypoints = -1};
    for (int i = 0; i < pattern->n; i++) {
        const field *f = &pattern->fields[i];
        if (p + f->before_bytes >= limit || !same_text(p, f->before, f->before_bytes))
            return NULL;
        p = read_value(json, f->kind, p + f->before_bytes, row);
        if (!p)
            return NULL;
    }
    if (p + pattern->after_bytes >= limit || !same_text(p, pattern->after, pattern->after_bytes))
        return NULL;
    return p + pattern->after_bytes;
}

/* The first place in [p, end) where a record may begin. */
static const char *find_record(const pattern *pattern, const char *p, const char *end) {
    const field *f = &pattern->fields[0];
    for (; (p = memchr(p, '{', (size_t)(end - p))); p++)
        if (same_text(p, f->before, f->before_bytes))
            return p;
    return NULL;
}

/* Reads records from p on while they are like the pattern; returns how many rows came. */
static size_t read_run(const pattern *pattern, dd_json *json, const char *p, const char *end,
                       const char *limit, size_t room, dd_coco_run *run) {
    run->begin = run->end = (size_t)(p - json->text);
    while (p < end && run->count < room) {
        const char *next = read_record(pattern, json, p, limit, &run->rows[run->count]);
        if (!next)
            break;
        run->count++;
        run->end = (size_t)(next - json->text);
        if (next + pattern->separator_bytes >= limit ||
            memcmp(next, pattern->separator, pattern->separator_bytes) != 0)
            break;
        p = next + pattern->separator_bytes;
    }
    return run->count;
}

/* A piece: from the first record that begins in it to the last one that does. Behind a record that
 * is different a new run begins. */
static void read_piece(void *context, int64_t unit, int thread) {
    const job *j = context;
    const pattern *pattern = j->pattern;
    (void)thread;
    if (dd_cancelled())
        return;
    const char *limit = j->text + j->length - SLACK, *p = j->text + j->from + PIECE * (size_t)unit;
    const char *end = limit - p > (ptrdiff_t)PIECE ? p + PIECE : limit;
    dd_coco_run *run = &j->lane->runs[RUNS * (size_t)unit];
    dd_coco_row *rows = j->lane->rows + j->room * (size_t)unit;
    size_t room = j->room;
    /* The text that is looked for may reach beyond the piece but not beyond the limit. */
    ptrdiff_t head = (ptrdiff_t)pattern->fields[0].before_bytes;
    const char *last = limit - end > head ? end : limit - head;
    dd_json json;
    dd_json_begin(&json, j->text, j->length, "");
    for (int i = 0; i < RUNS && p < last && (p = find_record(pattern, p, last)); i++, run++) {
        json.depth = pattern->results ? 2 : 3; /* of a record's values, for the limit of depth */
        json.n_keys = 0;
        run->rows = rows;
        size_t n = read_run(pattern, &json, p, end, limit, room, run);
        rows += n;
        room -= n;
        p = json.text + run->end + 1;
    }
    dd_json_free(&json);
}

static size_t count_lines(const char *p, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += p[i] == '\n';
    return count;
}

/* Newlines of the text around the values, which hold none themselves. */
static size_t record_lines(const pattern *p) {
    size_t lines = count_lines(p->after, p->after_bytes);
    for (int i = 0; i < p->n; i++)
        lines += count_lines(p->fields[i].before, p->fields[i].before_bytes);
    return lines;
}

dd_status dd_coco_lane_read(const char *text, size_t length, size_t first, size_t first_end,
                            bool results, dd_coco_lane *out) {
    dd_status status = DD_OK;
    dd_coco_lane lane = {0};
    pattern p;
    *out = lane;
    size_t from = first_end;
    if (length < from + PIECE / 16 || length < SLACK + from ||
        !make_pattern(text, length, first, first_end, results, &p))
        return DD_OK;
    lane.record_lines = record_lines(&p);
    lane.separator_lines = count_lines(p.separator, p.separator_bytes);
    size_t bytes = length - SLACK - from;
    size_t pieces = (bytes + PIECE - 1) / PIECE;
    lane.n_runs = RUNS * pieces;
    job j = {text, length, from, &p, &lane, PIECE / p.least_bytes + 2};
    DD_TRY_DONE(dd_alloc_array(lane.n_runs, sizeof *lane.runs, &lane.runs));
    size_t rows = 0;
    DD_TRY_DONE(dd_size_mul(pieces, j.room * sizeof *lane.rows, "coco_read", &rows));
    DD_TRY_DONE(dd_alloc(rows, &lane.rows)); /* what is not used is never touched */
    dd_parallel((int64_t)pieces, read_piece, &j);
    *out = lane;
    lane = (dd_coco_lane){0};
done:
    dd_coco_lane_free(&lane);
    return status;
}

void dd_coco_lane_free(dd_coco_lane *lane) {
    dd_free(lane->runs);
    dd_free(lane->rows);
    *lane = (dd_coco_lane){0};
}
