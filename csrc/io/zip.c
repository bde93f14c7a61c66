/* From the end: the end record says where the directory is, the directory where the members are.
 *
 *     local header, name, extra, data      a member; offsets below are of its header
 *     ...
 *     directory row, name, extra, comment  a row a member: sizes, checksum, where it begins
 *     ...
 *     end record, comment                  number of rows, size and place of the directory
 *
 * All numbers are little-endian and stand at odd addresses, so they are put together from bytes.
 * The directory counts; of a local header only the name is compared, because writers that stream
 * leave its sizes empty. */
#include "io/zip.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/checksum.h"

enum {
    END_BYTES = 22,       /* of the end record, without the comment behind it */
    DIRECTORY_BYTES = 46, /* of a directory row, without names */
    LOCAL_BYTES = 30,     /* of what stands before a member's data, without names */
    MAX_COMMENT = 65535,
};

/* The two ways a file is told to be unusable: broken, or of a kind that is not read. */
static dd_status fail_damaged(const char *file, const char *why) {
    return dd_fail(DD_EFORMAT, "checkpoint: %s is truncated or damaged (%s)", file, why);
}

static dd_status fail_declared(const char *file) {
    return dd_fail(DD_EFORMAT, "checkpoint: %s declares more bytes than it has, refused", file);
}

/* Fields by the offsets of APPNOTE's tables. */
static uint32_t u16(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t u32(const unsigned char *p) {
    return u16(p) | u16(p + 2) << 16;
}

/* The end record: the last place whose comment reaches exactly to the end of the file. */
static const unsigned char *find_end(const unsigned char *data, size_t length) {
    if (length < END_BYTES)
        return NULL;
    size_t last = length - END_BYTES, first = last > MAX_COMMENT ? last - MAX_COMMENT : 0;
    for (size_t at = last + 1; at-- > first;)
        if (!memcmp(data + at, "PK\5\6", 4) && at + END_BYTES + u16(data + at + 20) == length)
            return data + at;
    return NULL;
}

/* Where a member's data begins; its local header repeats the name. `limit`: the directory's
 * offset, before which all data lies. */
static dd_status locate(const unsigned char *data, size_t limit, size_t at, const char *file,
                        dd_zip_member *m) {
    if (at > limit || limit - at < LOCAL_BYTES || memcmp(data + at, "PK\3\4", 4) != 0)
        return fail_damaged(file, "a member is not where the directory says");
    const unsigned char *local = data + at;
    size_t names = u16(local + 26), skipped = names + u16(local + 28), room = limit - at;
    if (room - LOCAL_BYTES < skipped || names != m->name_length ||
        memcmp(local + LOCAL_BYTES, m->name, names) != 0)
        return fail_damaged(file, "a member has two names");
    if (room - LOCAL_BYTES - skipped < m->size)
        return fail_declared(file);
    m->data = local + LOCAL_BYTES + skipped;
    return DD_OK;
}

/* One row of the directory; *used: its bytes. */
static dd_status read_row(const unsigned char *data, size_t directory, const unsigned char *row,
                          size_t room, const char *file, dd_zip_member *m, size_t *used) {
    if (room < DIRECTORY_BYTES || memcmp(row, "PK\1\2", 4) != 0)
        return fail_damaged(file, "its directory is cut off");
    size_t name = u16(row + 28), bytes = DIRECTORY_BYTES + name + u16(row + 30) + u16(row + 32);
    if (room < bytes)
        return fail_damaged(file, "its directory is cut off");
    *m = (dd_zip_member){.name = (const char *)row + DIRECTORY_BYTES,
                         .name_length = name,
                         .size = u32(row + 24),
                         .crc = u32(row + 16)};
    if (u16(row + 8) & 1)
        return dd_fail(DD_EFORMAT, "checkpoint: %s: %.*s is encrypted, refused", file,
                       (int)(name < 80 ? name : 80), m->name);
    if (u16(row + 10) != 0)
        return dd_fail(DD_EFORMAT, "checkpoint: %s: %.*s is compressed, refused", file,
                       (int)(name < 80 ? name : 80), m->name);
    if (u32(row + 20) != m->size)
        return fail_damaged(file, "a stored member has two sizes");
    *used = bytes;
    return locate(data, directory, u32(row + 42), file, m);
}

/* Order of the bytes, a beginning before what it begins. */
static int compare_names(const char *a, size_t a_length, const char *b, size_t b_length) {
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    return order ? order : (a_length > b_length) - (a_length < b_length);
}

static int compare_members(const void *a, const void *b) {
    const dd_zip_member *x = a, *y = b;
    return compare_names(x->name, x->name_length, y->name, y->name_length);
}

/* Two members of one name: two readers of such a file would see two different models. */
static dd_status sort_members(dd_zip *zip, const char *file) {
    qsort(zip->members, zip->n, sizeof *zip->members, compare_members);
    for (size_t i = 1; i < zip->n; i++)
        if (compare_members(&zip->members[i - 1], &zip->members[i]) == 0)
            return fail_damaged(file, "two members have one name");
    return DD_OK;
}

dd_status dd_zip_read(const char *data, size_t length, const char *file, dd_zip *zip) {
    const unsigned char *bytes = (const unsigned char *)data, *end = find_end(bytes, length);
    if (!end)
        return fail_damaged(file, "a zip's end is missing");
    size_t n = u16(end + 10), size = u32(end + 12), directory = u32(end + 16);
    size_t room = (size_t)(end - bytes);
    if (n == 0xffff || directory == 0xffffffff)
        return dd_fail(DD_EFORMAT, "checkpoint: %s has 4 GiB or 65535 members, or more, refused",
                       file);
    if (u16(end + 4) || u16(end + 6) || u16(end + 8) != n || directory > room ||
        size > room - directory)
        return fail_damaged(file, "its end does not fit the rest");
    /* The count is of 16 bits, so this is small before any row has been seen. */
    dd_zip made = {.n = n};
    dd_status status;
    DD_TRY_DONE(dd_alloc_array(n, sizeof *made.members, &made.members));
    const unsigned char *row = bytes + directory;
    size_t left = directory; /* members that overlap would make work without end of a small file */
    for (size_t i = 0; i < n; i++) {
        size_t used = 0;
        DD_TRY_DONE(read_row(bytes, directory, row, size, file, &made.members[i], &used));
        row += used;
        size -= used;
        if (made.members[i].size > left)
            DD_TRY_DONE(fail_declared(file));
        left -= made.members[i].size;
    }
    DD_TRY_DONE(sort_members(&made, file));
    *zip = made;
    made.members = NULL;
done:
    dd_free(made.members);
    return status;
}

void dd_zip_free(dd_zip *zip) {
    dd_free(zip->members);
    *zip = (dd_zip){0};
}

const dd_zip_member *dd_zip_find(const dd_zip *zip, const char *name, size_t name_length) {
    size_t low = 0, high = zip->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const dd_zip_member *m = &zip->members[middle];
        int order = compare_names(m->name, m->name_length, name, name_length);
        if (order == 0)
            return m;
        *(order < 0 ? &low : &high) = order < 0 ? middle + 1 : middle;
    }
    return NULL;
}

dd_status dd_zip_check(const dd_zip_member *m, const char *file) {
    if (dd_crc32(m->data, m->size) == m->crc)
        return DD_OK;
    return dd_fail(DD_EFORMAT, "checkpoint: %s is damaged (%.*s has another checksum)", file,
                   (int)(m->name_length < 80 ? m->name_length : 80), m->name);
}
