/* The cursor: grammar, strings, keys.
 *
 * Everything leans on the NUL byte behind the text: no loop compares with the end, because a NUL
 * ends white space, digits and strings, and is no valid byte of UTF-8's continuation or of an
 * escape. Only where a NUL was met does the code ask whether it is the end or a byte of the file.
 *
 * The state is the byte position and, for each open container, its bracket, whether it has an item
 * (so that commas are due) and where its keys begin in one shared stack. Keys are kept to find
 * duplicates: as hash and piece of the text, so an object of usual size costs no allocation once
 * the stack has grown. Values are not kept at all.
 *
 * Errors are rare and final, so the line is counted then, from the beginning; `dd_json_line`, which
 * readers call for each record, counts on from its last place. */
#include "evaluate/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

/* Up to this many keys of one object are compared with each new one; a larger object is checked at
 * its end by sorting, so that a hostile file costs n log n and not n². */
#define FEW_KEYS 32

/* ---- messages ------------------------------------------------------------------------------ */

size_t dd_json_line(dd_json *json) {
    size_t count = 0;
    for (size_t i = json->line_at; i < json->at; i++)
        count += json->text[i] == '\n';
    json->line += count;
    json->line_at = json->at > json->line_at ? json->at : json->line_at;
    return json->line;
}

dd_status dd_json_fail(dd_json *json, const char *what) {
    size_t line = 1; /* counted anew: the place may lie before the last line asked for */
    for (size_t i = 0; i < json->at; i++)
        line += json->text[i] == '\n';
    return dd_fail(DD_EFORMAT, "%s:%zu: byte %zu: %s", json->name, line, json->at, what);
}

/* "came X, needed" with the byte at the cursor named. */
static dd_status fail_needed(dd_json *json, const char *needed) {
    /* A byte that does not print goes out as a number: messages stay one line of plain text. */
    unsigned char c = (unsigned char)json->text[json->at];
    char what[96];
    if (json->at >= json->length)
        snprintf(what, sizeof what, "the file ends, %s was needed", needed);
    else if (c > 0x20 && c < 0x7f)
        snprintf(what, sizeof what, "'%c' came, %s was needed", c, needed);
    else
        snprintf(what, sizeof what, "byte 0x%02x came, %s was needed", c, needed);
    return dd_json_fail(json, what);
}

const char *dd_json_kind_name(dd_json_kind kind) {
    static const char *const names[] = {"nothing",  "an object",     "an array", "a string",
                                        "a number", "true or false", "null"};
    return names[kind];
}

/* ---- bytes --------------------------------------------------------------------------------- */

static void skip_space(dd_json *json) {
    const char *p = json->text + json->at;
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')
        p++; /* the NUL after the text ends this */
    json->at = (size_t)(p - json->text);
}

size_t dd_utf8_length(const unsigned char *p) {
    unsigned char a = p[0];
    if (a >= 0xc2 && a <= 0xdf)
        return (p[1] & 0xc0) == 0x80 ? 2 : 0;
    if ((a & 0xf0) == 0xe0) {
        unsigned char low = a == 0xe0 ? 0xa0 : 0x80, high = a == 0xed ? 0x9f : 0xbf;
        return p[1] >= low && p[1] <= high && (p[2] & 0xc0) == 0x80 ? 3 : 0;
    }
    if (a >= 0xf0 && a <= 0xf4) {
        unsigned char low = a == 0xf0 ? 0x90 : 0x80, high = a == 0xf4 ? 0x8f : 0xbf;
        return p[1] >= low && p[1] <= high && (p[2] & 0xc0) == 0x80 && (p[3] & 0xc0) == 0x80 ? 4
                                                                                             : 0;
    }
    return 0;
}

/* The four hexadecimal digits at p, -1 if there are fewer. */
static int hex4(const char *p) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Checks the escape at the cursor (a backslash) and passes it. */
static dd_status pass_escape(dd_json *json) {
    const char *p = json->text + json->at;
    if (p[1] != 'u') {
        if (p[1] == '\0' || !strchr("\"\\/bfnrt", p[1]))
            return dd_json_fail(json, "an unknown escape came in a string");
        json->at += 2;
        return DD_OK;
    }
    int unit = hex4(p + 2);
    if (unit < 0)
        return dd_json_fail(json, "\\u came without four hexadecimal digits");
    json->at += 6;
    if (unit < 0xd800 || unit > 0xdfff)
        return DD_OK;
    /* Half of a character beyond U+FFFF: its other half must follow. Python's json lets a lone one
     * through, but it has no UTF-8 form, so a name with one could never be written back. */
    int low = unit <= 0xdbff && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return dd_json_fail(json, "a lone surrogate came in a string");
    json->at += 6;
    return DD_OK;
}

/* Whether eight bytes are all plain characters: no quote, backslash, control or byte above 0x7f. A
 * zero among bytes is found by subtracting one from each: it alone borrows, unless it was above
 * 0x7f, which is looked for by itself. */
static bool plain_eight(const unsigned char *p) {
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    uint64_t v;
    memcpy(&v, p, 8);
    uint64_t quote = v ^ (ones * '"'), slash = v ^ (ones * '\\');
    return !((v | (v - ones * 0x20) | (quote - ones) | (slash - ones)) & high);
}

/* Reads the string at the cursor, which stands on its opening quote. */
static dd_status read_string(dd_json *json, dd_json_text *out) {
    size_t start = ++json->at;
    bool escaped = false;
    for (;;) {
        const unsigned char *p = (const unsigned char *)json->text + json->at;
        const unsigned char *q = p; /* a run of plain characters, the common case */
        size_t left = json->length - json->at;
        while ((size_t)(q - p) + 8 <= left && plain_eight(q))
            q += 8;
        while (*q >= 0x20 && *q < 0x80 && *q != '"' && *q != '\\')
            q++;
        json->at += (size_t)(q - p);
        if (*q == '"')
            break;
        if (*q == '\\') {
            escaped = true;
            DD_TRY(pass_escape(json));
        } else if (*q >= 0x80) {
            size_t n = dd_utf8_length(q);
            if (!n)
                return dd_json_fail(json, "a string is not valid UTF-8");
            json->at += n;
        } else if (json->at >= json->length) {
            return dd_json_fail(json, "the file ends within a string");
        } else {
            return dd_json_fail(json, "a control character came in a string");
        }
    }
    *out = (dd_json_text){json->text + start, json->at - start, escaped};
    json->at++;
    return DD_OK;
}

/* Passes the number at the cursor and gives its length; `whole` when it has neither fraction nor
 * exponent. */
static dd_status scan_number(dd_json *json, size_t *length, bool *whole) {
    const char *start = json->text + json->at, *p = start;
    p += *p == '-';
    const char *digits = p; /* RFC 8259: 0, or digits that do not begin with 0 */
    while (*p >= '0' && *p <= '9')
        p++;
    if (p == digits || (*digits == '0' && p > digits + 1)) {
        json->at = (size_t)(digits - json->text);
        return p == digits ? fail_needed(json, "a digit")
                           : dd_json_fail(json, "a number came with a leading zero");
    }
    *whole = *p != '.' && *p != 'e' && *p != 'E';
    for (int part = 0; part < 2; part++) { /* the fraction, then the exponent */
        if (part == 0 ? *p != '.' : *p != 'e' && *p != 'E')
            continue;
        p++;
        if (part == 1 && (*p == '+' || *p == '-'))
            p++;
        digits = p;
        while (*p >= '0' && *p <= '9')
            p++;
        if (p == digits) {
            json->at = (size_t)(p - json->text);
            return fail_needed(json, "a digit");
        }
    }
    *length = (size_t)(p - start);
    json->at += *length;
    return DD_OK;
}

/* ---- text (checked before: these functions trust the escapes that they meet) --------------- */

bool dd_json_is(const dd_json_text *text, const char *word) {
    size_t n = strlen(word);
    if (!text->escaped)
        return text->length == n && memcmp(text->data, word, n) == 0;
    if (text->length < n || text->length > 6 * n) /* an escape has six bytes at the most */
        return false;
    char buffer[256];
    return text->length <= sizeof buffer && dd_json_unescape(text, buffer) == n &&
           memcmp(buffer, word, n) == 0;
}

/* Writes a code point as 1 to 4 bytes. */
static size_t put_utf8(uint32_t code, char *out) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(lead[more] | (code >> (6 * more)));
    for (int i = 1; i <= more; i++)
        out[i] = (char)(0x80 | ((code >> (6 * (more - i))) & 0x3f));
    return (size_t)more + 1;
}

/* Unescapes one character of checked text at *p, moves *p on, writes 1 to 4 bytes. */
static size_t unescape_one(const char **p, char *out) {
    const char *s = *p;
    if (*s != '\\') {
        *p = s + 1;
        *out = *s;
        return 1;
    }
    if (s[1] != 'u') {
        static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
        const char *found = strchr(from, s[1]);
        *out = found ? to[found - from] : s[1];
        *p = s + 2;
        return 1;
    }
    uint32_t code = (uint32_t)hex4(s + 2);
    *p = s + 6;
    if (code >= 0xd800 && code <= 0xdbff) {
        code = 0x10000 + ((code - 0xd800) << 10) + ((uint32_t)hex4(s + 8) - 0xdc00);
        *p = s + 12;
    }
    return put_utf8(code, out);
}

size_t dd_json_unescape(const dd_json_text *text, char *out) {
    if (!text->escaped) {
        memcpy(out, text->data, text->length);
        return text->length;
    }
    size_t n = 0;
    for (const char *p = text->data, *end = p + text->length; p < end;)
        n += unescape_one(&p, out + n);
    return n;
}

/* ---- keys ---------------------------------------------------------------------------------- */

static uint64_t hash_text(const dd_json_text *text) { /* FNV-1a over the unescaped bytes */
    uint64_t hash = 0xcbf29ce484222325u;
    if (!text->escaped) {
        for (size_t i = 0; i < text->length; i++)
            hash = (hash ^ (unsigned char)text->data[i]) * 0x100000001b3u;
        return hash;
    }
    for (const char *p = text->data, *end = p + text->length; p < end;) {
        char bytes[4];
        size_t n = unescape_one(&p, bytes);
        for (size_t i = 0; i < n; i++)
            hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    }
    return hash;
}

/* Order of the unescaped bytes: <0, 0, >0. */
static int compare_texts(const dd_json_text *a, const dd_json_text *b) {
    if (!a->escaped && !b->escaped) {
        int order = memcmp(a->data, b->data, a->length < b->length ? a->length : b->length);
        return order ? order : (a->length > b->length) - (a->length < b->length);
    }
    const char *p = a->data, *p_end = p + a->length, *q = b->data, *q_end = q + b->length;
    char x[4], y[4];
    size_t nx = 0, ny = 0, ix = 0, iy = 0;
    for (;;) {
        if (ix == nx) {
            nx = p < p_end ? unescape_one(&p, x) : 0;
            ix = 0;
        }
        if (iy == ny) {
            ny = q < q_end ? unescape_one(&q, y) : 0;
            iy = 0;
        }
        if (!nx || !ny)
            return (nx > 0) - (ny > 0);
        int difference = (unsigned char)x[ix++] - (unsigned char)y[iy++];
        if (difference)
            return difference;
    }
}

static int compare_marks(const dd_json_mark *a, const dd_json_mark *b) {
    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    return compare_texts(&a->text, &b->text);
}

static dd_status fail_duplicate(dd_json *json, const dd_json_text *key) {
    char what[96];
    snprintf(what, sizeof what, "the key \"%.*s\" comes twice in one object",
             (int)(key->length < 40 ? key->length : 40), key->data);
    json->at = (size_t)(key->data - json->text);
    return dd_json_fail(json, what);
}

/* Restores the heap below `root`: parents are not less than their children. */
static void sift_down(dd_json_mark *marks, size_t root, size_t n) {
    for (size_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && compare_marks(&marks[child], &marks[child + 1]) < 0)
            child++;
        if (compare_marks(&marks[root], &marks[child]) >= 0)
            return;
        dd_json_mark t = marks[root];
        marks[root] = marks[child];
        marks[child] = t;
    }
}

/* The check at the end of a large object. Heap sort: in place, no bad case. */
static dd_status check_many_keys(dd_json *json, dd_json_mark *marks, size_t n) {
    for (size_t i = n / 2; i-- > 0;)
        sift_down(marks, i, n);
    for (size_t end = n; end-- > 1;) {
        dd_json_mark t = marks[0];
        marks[0] = marks[end];
        marks[end] = t;
        sift_down(marks, 0, end);
    }
    for (size_t i = 1; i < n; i++)
        if (compare_marks(&marks[i - 1], &marks[i]) == 0)
            return fail_duplicate(json, marks[i].text.data > marks[i - 1].text.data
                                            ? &marks[i].text
                                            : &marks[i - 1].text);
    return DD_OK;
}

/* Puts a key on the stack after comparing it with the object's earlier ones. The stack belongs to
 * all open objects together; an object's part is cut off when it ends. */
static dd_status remember_key(dd_json *json, const dd_json_text *key) {
    size_t first = json->first_key[json->depth - 1], n = json->n_keys - first;
    dd_json_mark mark = {hash_text(key), *key};
    if (n < FEW_KEYS)
        for (size_t i = first; i < json->n_keys; i++)
            if (json->keys[i].hash == mark.hash && !compare_texts(&json->keys[i].text, key))
                return fail_duplicate(json, key);
    DD_TRY(dd_reserve(&json->keys, &json->keys_capacity, json->n_keys + 1, sizeof *json->keys));
    json->keys[json->n_keys++] = mark;
    return DD_OK;
}

/* ---- the cursor ---------------------------------------------------------------------------- */

void dd_json_begin(dd_json *json, const char *text, size_t length, const char *name) {
    *json = (dd_json){.name = name, .text = text, .length = length, .line = 1};
}

void dd_json_free(dd_json *json) {
    dd_free(json->keys);
    json->keys = NULL;
    json->n_keys = json->keys_capacity = 0;
}

dd_json_kind dd_json_peek(dd_json *json) {
    skip_space(json);
    switch (json->text[json->at]) {
    case '{':
        return DD_JSON_OBJECT;
    case '[':
        return DD_JSON_ARRAY;
    case '"':
        return DD_JSON_STRING;
    case 't':
    case 'f':
        return DD_JSON_BOOL;
    case 'n':
        return DD_JSON_NULL;
    case '-':
        return DD_JSON_NUMBER;
    default:
        return json->text[json->at] >= '0' && json->text[json->at] <= '9' ? DD_JSON_NUMBER
                                                                          : DD_JSON_END;
    }
}

/* The error where no value can begin. */
static dd_status fail_no_value(dd_json *json, const char *needed) {
    if (json->at == 0 && !strncmp(json->text, "\xef\xbb\xbf", 3))
        return dd_json_fail(json, "a byte order mark came, UTF-8 without one was needed");
    return fail_needed(json, needed);
}

/* Fails unless the next value is of `kind`. */
static dd_status need(dd_json *json, dd_json_kind kind) {
    dd_json_kind found = dd_json_peek(json);
    if (found == kind)
        return DD_OK;
    if (found == DD_JSON_END)
        return fail_no_value(json, dd_json_kind_name(kind));
    char what[96];
    snprintf(what, sizeof what, "%s came, %s was needed", dd_json_kind_name(found),
             dd_json_kind_name(kind));
    return dd_json_fail(json, what);
}

/* Enters a container: the depth is limited here, so that no caller needs recursion or a guard. */
static dd_status enter(dd_json *json, dd_json_kind kind, unsigned char bracket) {
    DD_TRY(need(json, kind));
    if (json->depth == DD_JSON_DEPTH)
        return dd_json_fail(json, "values are nested too deep, at most 64 levels are read");
    json->open[json->depth] = bracket;
    json->filled[json->depth] = false;
    json->first_key[json->depth] = json->n_keys;
    json->depth++;
    json->at++;
    return DD_OK;
}

dd_status dd_json_object(dd_json *json) {
    return enter(json, DD_JSON_OBJECT, '{');
}

dd_status dd_json_array(dd_json *json) {
    return enter(json, DD_JSON_ARRAY, '[');
}

/* Passes a comma where one is due, or the closing bracket: *more says which. */
static dd_status next_in(dd_json *json, char close, bool *more) {
    skip_space(json);
    int top = json->depth - 1;
    char c = json->text[json->at];
    *more = c != close;
    if (c == close) {
        json->at++;
        json->depth--;
        return DD_OK;
    }
    if (json->filled[top]) {
        if (c != ',')
            return fail_needed(json, close == '}' ? "',' or '}'" : "',' or ']'");
        json->at++;
        skip_space(json);
        if (json->text[json->at] == close)
            return dd_json_fail(json, "a trailing comma came");
    }
    json->filled[top] = true;
    return DD_OK;
}

dd_status dd_json_key(dd_json *json, dd_json_text *key, bool *more) {
    DD_TRY(next_in(json, '}', more));
    if (!*more) { /* the object ended: its keys go, the large object's check is due */
        size_t first = json->first_key[json->depth], n = json->n_keys - first;
        json->n_keys = first;
        return n > FEW_KEYS ? check_many_keys(json, json->keys + first, n) : DD_OK;
    }
    if (json->text[json->at] != '"')
        return fail_needed(json, "a key in double quotes");
    DD_TRY(read_string(json, key));
    DD_TRY(remember_key(json, key));
    skip_space(json);
    if (json->text[json->at] != ':')
        return fail_needed(json, "':'");
    json->at++;
    return DD_OK;
}

dd_status dd_json_item(dd_json *json, bool *more) {
    return next_in(json, ']', more);
}

dd_status dd_json_string(dd_json *json, dd_json_text *string) {
    DD_TRY(need(json, DD_JSON_STRING));
    return read_string(json, string);
}

dd_status dd_json_number(dd_json *json, double *number) {
    size_t length;
    bool whole;
    DD_TRY(need(json, DD_JSON_NUMBER));
    size_t start = json->at;
    DD_TRY(scan_number(json, &length, &whole));
    double value = dd_json_decimal(json->text + start, length);
    if (!isfinite(value)) {
        json->at = start;
        return dd_json_fail(json, "a number is beyond the range of a double");
    }
    *number = value;
    return DD_OK;
}

dd_status dd_json_int(dd_json *json, int64_t *number) {
    size_t length;
    bool whole;
    DD_TRY(need(json, DD_JSON_NUMBER));
    size_t start = json->at;
    DD_TRY(scan_number(json, &length, &whole));
    double value = dd_json_decimal(json->text + start, length);
    /* 2^53 + 1 would round to 2^53, so the bound itself is told apart by its digits. */
    bool fits = value > -(double)DD_JSON_MAX_INT && value < (double)DD_JSON_MAX_INT;
    if (!fits && whole) {
        const char *digits = json->text + start;
        size_t sign = *digits == '-';
        fits = length - sign == 16 && !memcmp(digits + sign, "9007199254740992", 16);
    }
    if (!fits || value != floor(value)) {
        json->at = start;
        return dd_fail(DD_EVALUE, "%s:%zu: byte %zu: a whole number within 2^53 was needed",
                       json->name, dd_json_line(json), start);
    }
    *number = (int64_t)value;
    return DD_OK;
}

/* Passes `word` if it stands at the cursor. */
static bool pass_word(dd_json *json, const char *word, size_t n) {
    if (strncmp(json->text + json->at, word, n) != 0)
        return false;
    json->at += n;
    return true;
}

dd_status dd_json_bool(dd_json *json, bool *value) {
    DD_TRY(need(json, DD_JSON_BOOL));
    if (pass_word(json, "true", 4))
        *value = true;
    else if (pass_word(json, "false", 5))
        *value = false;
    else
        return fail_needed(json, "true or false");
    return DD_OK;
}

dd_status dd_json_null(dd_json *json) {
    DD_TRY(need(json, DD_JSON_NULL));
    return pass_word(json, "null", 4) ? DD_OK : fail_needed(json, "null");
}

/* Passes one value that holds no others. */
static dd_status skip_plain(dd_json *json, dd_json_kind kind) {
    dd_json_text text;
    size_t length;
    bool flag;
    switch (kind) {
    case DD_JSON_STRING:
        return read_string(json, &text);
    case DD_JSON_NUMBER:
        return scan_number(json, &length, &flag);
    case DD_JSON_BOOL:
        return dd_json_bool(json, &flag);
    case DD_JSON_NULL:
        return dd_json_null(json);
    default:
        return fail_no_value(json, "a value");
    }
}

/* Walks without recursion: the cursor's own stack says what is open. */
dd_status dd_json_skip(dd_json *json) {
    int base = json->depth;
    do {
        bool more = true;
        dd_json_text key;
        if (json->depth > base) { /* on to the next value of the innermost open one */
            if (json->open[json->depth - 1] == '{')
                DD_TRY(dd_json_key(json, &key, &more));
            else
                DD_TRY(dd_json_item(json, &more));
        }
        if (!more)
            continue;
        dd_json_kind kind = dd_json_peek(json);
        if (kind == DD_JSON_OBJECT)
            DD_TRY(dd_json_object(json));
        else if (kind == DD_JSON_ARRAY)
            DD_TRY(dd_json_array(json));
        else
            DD_TRY(skip_plain(json, kind));
    } while (json->depth > base);
    return DD_OK;
}

dd_status dd_json_end(dd_json *json) {
    skip_space(json);
    return json->at < json->length ? fail_needed(json, "the end of the file") : DD_OK;
}
