/* Fuzz target of the JSON reader and of what reads COCO files with it. Any bytes may come; what
 * is checked beyond memory errors: the COCO reader accepts no text that the plain walk refuses,
 * skipping and reading agree, nothing leaks. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/coco_file.h"
#include "evaluate/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NEED(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "fuzz_json: %s does not hold\n", #condition);                          \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Reads the plain value at the cursor by its own function. */
static dd_status read_plain(dd_json *json) {
    dd_json_text text;
    double number;
    bool flag;
    switch (dd_json_peek(json)) {
    case DD_JSON_STRING: {
        DD_TRY(dd_json_string(json, &text));
        char *out;
        DD_TRY(dd_alloc(text.length, &out));
        NEED(dd_json_unescape(&text, out) <= text.length);
        dd_free(out);
        return DD_OK;
    }
    case DD_JSON_NUMBER: {
        int64_t whole = 0;
        dd_json before = *json;
        if (dd_json_int(&before, &whole) == DD_OK)
            NEED(whole <= DD_JSON_MAX_INT && whole >= -DD_JSON_MAX_INT);
        return dd_json_number(json, &number);
    }
    case DD_JSON_BOOL:
        return dd_json_bool(json, &flag);
    case DD_JSON_NULL:
        return dd_json_null(json);
    default:
        return dd_json_skip(json); /* the error */
    }
}

/* Walks all values one by one. */
static dd_status walk(dd_json *json) {
    dd_json_text key;
    bool more;
    do {
        more = true;
        if (json->depth && json->open[json->depth - 1] == '{')
            DD_TRY(dd_json_key(json, &key, &more));
        else if (json->depth)
            DD_TRY(dd_json_item(json, &more));
        if (!more)
            continue;
        dd_json_kind kind = dd_json_peek(json);
        if (kind == DD_JSON_OBJECT)
            DD_TRY(dd_json_object(json));
        else if (kind == DD_JSON_ARRAY)
            DD_TRY(dd_json_array(json));
        else
            DD_TRY(read_plain(json));
    } while (json->depth);
    return dd_json_end(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t live = dd_alloc_live();
    char *text;
    dd_json json;
    if (dd_alloc(size + 1, &text) != DD_OK)
        return 0;
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';

    dd_json_begin(&json, text, size, "fuzz");
    bool walked = walk(&json) == DD_OK;
    dd_json_free(&json);
    dd_json_begin(&json, text, size, "fuzz");
    bool skipped = dd_json_skip(&json) == DD_OK && dd_json_end(&json) == DD_OK;
    NEED(skipped || !walked); /* a number beyond the range of a double may be skipped */
    NEED(!skipped || dd_json_line(&json) >= 1);
    dd_json_free(&json);
    for (int results = 0; results < 2; results++) {
        dd_coco_file file;
        if (dd_coco_read(text, size, "fuzz", results, &file) != DD_OK)
            continue;
        NEED(skipped);
        for (size_t i = 0; i < file.n_annotations && !results; i++)
            NEED((size_t)file.annotations[i].image < file.n_images &&
                 (size_t)file.annotations[i].category < file.n_categories);
        dd_coco_file_free(&file);
    }
    dd_free(text);
    NEED(dd_alloc_live() == live);
    return 0;
}
