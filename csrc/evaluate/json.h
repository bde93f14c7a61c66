/* A strict JSON reader (RFC 8259): a cursor that walks the text once and allocates only for the
 * keys of objects that are open.
 *
 * Strict means: UTF-8 is checked, lone surrogates, control characters, a byte order mark, NaN,
 * Infinity, comments and trailing commas are refused, and so is a key that appears twice in one
 * object (two readers of such a file would see two different data sets). What is skipped is
 * checked as strictly as what is read. No recursion: depth is limited by DD_JSON_DEPTH.
 *
 * Every failure is DD_EFORMAT with "name:line: byte offset: what came, what was needed"; after one
 * the cursor may only be freed.
 *
 *     dd_json json;
 *     dd_json_begin(&json, text, length, "ann.json");
 *     DD_TRY_DONE(dd_json_object(&json));
 *     for (;;) {
 *         DD_TRY_DONE(dd_json_key(&json, &key, &more));
 *         if (!more)
 *             break;
 *         if (dd_json_is(&key, "id"))
 *             DD_TRY_DONE(dd_json_int(&json, &id));
 *         else
 *             DD_TRY_DONE(dd_json_skip(&json));
 *     }
 *     DD_TRY_DONE(dd_json_end(&json));
 * done:
 *     dd_json_free(&json);
 */
#ifndef DD_EVALUATE_JSON_H
#define DD_EVALUATE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define DD_JSON_DEPTH 64
#define DD_JSON_MAX_INT 9007199254740992 /* 2^53: beyond it a double cannot count */

typedef enum dd_json_kind {
    DD_JSON_END = 0, /* nothing, or nothing that may stand here; reading it gives the error */
    DD_JSON_OBJECT,
    DD_JSON_ARRAY,
    DD_JSON_STRING,
    DD_JSON_NUMBER,
    DD_JSON_BOOL,
    DD_JSON_NULL,
} dd_json_kind;

/* A checked piece of the text, without its quotes; borrowed from the text. */
typedef struct dd_json_text {
    const char *data;
    size_t length;
    bool escaped; /* holds a backslash: use dd_json_unescape */
} dd_json_text;

typedef struct dd_json_mark { /* a key of an open object */
    uint64_t hash;            /* of the unescaped bytes */
    dd_json_text text;
} dd_json_mark;

typedef struct dd_json {
    const char *name, *text;
    size_t length, at;
    int depth;
    unsigned char open[DD_JSON_DEPTH]; /* '{' or '[' */
    bool filled[DD_JSON_DEPTH];        /* has an item already */
    size_t first_key[DD_JSON_DEPTH];
    dd_json_mark *keys; /* of all open objects, a stack */
    size_t n_keys, keys_capacity;
    size_t line_at, line; /* newlines are counted once, as the cursor goes */
} dd_json;

/* Starts at the text's beginning. `text` is borrowed and text[length] must be a NUL byte; `name`
 * (of the file, for messages) is borrowed too. */
void dd_json_begin(dd_json *json, const char *text, size_t length, const char *name);
void dd_json_free(dd_json *json); /* a zeroed cursor is allowed */

/* Kind of the value at the cursor, by its first byte. */
dd_json_kind dd_json_peek(dd_json *json);
const char *dd_json_kind_name(dd_json_kind kind); /* "an object", "a number", ... */

dd_status dd_json_object(dd_json *json); /* enters; then dd_json_key until !*more */
dd_status dd_json_array(dd_json *json);  /* enters; then dd_json_item until !*more */

/* The next key (its value must be read or skipped before the next call), or the object's end. */
dd_status dd_json_key(dd_json *json, dd_json_text *key, bool *more);
/* Whether another value stands in the array; at its end the cursor leaves it. */
dd_status dd_json_item(dd_json *json, bool *more);

dd_status dd_json_string(dd_json *json, dd_json_text *string);
dd_status dd_json_number(dd_json *json, double *number); /* the nearest double; finite */
/* A whole number within ±2^53 ("3" and "3.0" both are); DD_EVALUE, without leaving the value, for
 * a number that is none, so that the caller may skip it. */
dd_status dd_json_int(dd_json *json, int64_t *number);
dd_status dd_json_bool(dd_json *json, bool *value);
dd_status dd_json_null(dd_json *json);
dd_status dd_json_skip(dd_json *json); /* any value; text[before..json->at) is what was skipped */
dd_status dd_json_end(dd_json *json);  /* only white space may be left */

size_t dd_json_line(dd_json *json); /* line of the cursor, from 1 */
/* Fails at the cursor with the message's head and `what`. */
dd_status dd_json_fail(dd_json *json, const char *what);

bool dd_json_is(const dd_json_text *text, const char *word); /* `word` needs no escapes */
/* Writes the unescaped bytes to `out` (text->length bytes are always enough) and returns how many;
 * no NUL is added. */
size_t dd_json_unescape(const dd_json_text *text, char *out);

/* Length of the valid UTF-8 sequence at p, whose first byte is >= 0x80, 0 if it is none: overlong
 * forms, surrogates and code points beyond U+10FFFF are none. Reads no further than the first wrong
 * byte, so a NUL after a text stops it. */
size_t dd_utf8_length(const unsigned char *p);

/* The nearest double to digits · 10^exponent as it is written in text[0..length), whose grammar
 * has been checked and which some other byte follows. Infinity when it is out of range. */
double dd_json_decimal(const char *text, size_t length);

/* Reads a whole file into `*text` (the caller's to dd_free), with a NUL byte after it. */
dd_status dd_file_read(const char *path, char **text, size_t *length);

#endif
