/* Whole files into memory. Not mapped: a mapped file that another process cuts short kills the
 * reader with a signal, and the parser needs its NUL byte behind the last page, too. */
#include "evaluate/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

dd_status dd_file_read(const char *path, char **text, size_t *length) {
    dd_status status = DD_OK;
    char *data = NULL;
    size_t n = 0, capacity = 0;
    FILE *file = fopen(path, "rb");
    if (!file)
        return dd_fail(DD_EIO, "%s: %s", path, strerror(errno));
    /* The size is a hint for one allocation; pipes have none, so reading decides. */
    if (fseek(file, 0, SEEK_END) == 0) {
        long size = ftell(file);
        rewind(file);
        if (size > 0 && size < INT64_MAX / 2)
            capacity = (size_t)size;
    }
    capacity = capacity < 4096 ? 4096 : capacity;
    DD_TRY_DONE(dd_realloc_array(&data, capacity + 1, 1));
    for (;;) {
        n += fread(data + n, 1, capacity - n, file);
        if (ferror(file)) {
            status = dd_fail(DD_EIO, "%s: %s", path, strerror(errno));
            goto done;
        }
        int next = n < capacity ? EOF : fgetc(file); /* full: is there more? */
        if (next == EOF)
            break;
        DD_TRY_DONE(dd_realloc_array(&data, capacity + capacity / 2 + 1, 1));
        capacity += capacity / 2;
        data[n++] = (char)next;
    }
    data[n] = '\0';
    *text = data;
    *length = n;
    data = NULL;
done:
    dd_free(data);
    fclose(file);
    return status;
}
