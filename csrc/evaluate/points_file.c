/* A cursor is set on each list in turn. */
#include "evaluate/points_file.h"

#include <stdbool.h>
#include <stdio.h>

#include "evaluate/json.h"

/* Reads one list; `out` has room for `room` numbers, *count is how many came. */
static dd_status read_list(dd_json *json, double *out, size_t room, size_t *count) {
    bool more;
    double value;
    *count = 0;
    DD_TRY(dd_json_array(json));
    for (;;) {
        DD_TRY(dd_json_item(json, &more));
        if (!more)
            return DD_OK;
        DD_TRY(dd_json_number(json, *count < room ? &out[*count] : &value));
        ++*count;
    }
}

/* A cursor on the i-th value. */
static dd_status begin(const dd_points_source *s, size_t i, dd_json *json) {
    dd_json_begin(json, s->text, s->length, s->name);
    if (s->at[i] >= s->length)
        return dd_fail(DD_EVALUE, "%s: keypoints %zu begin beyond the text", s->name, i);
    json->at = (size_t)s->at[i];
    return DD_OK;
}

dd_status dd_points_count(const dd_points_source *s, size_t *count) {
    size_t i = 0, n = 0;
    while (i < s->n && !s->bytes[i])
        i++;
    if (i < s->n) {
        dd_json json;
        DD_TRY(begin(s, i, &json));
        DD_TRY(read_list(&json, NULL, 0, &n));
    }
    *count = n;
    return DD_OK;
}

dd_status dd_points_read(const dd_points_source *s, size_t count, double *out) {
    for (size_t i = 0; i < s->n; i++, out += count) {
        dd_json json;
        size_t n = 0;
        for (size_t k = 0; k < count; k++)
            out[k] = 0;
        if (!s->bytes[i])
            continue;
        DD_TRY(begin(s, i, &json));
        DD_TRY(read_list(&json, out, count, &n));
        if (n != count) {
            char what[96];
            snprintf(what, sizeof what, "%zu numbers of keypoints came, %zu were needed", n, count);
            return dd_json_fail(&json, what);
        }
    }
    return DD_OK;
}
