/* Whole files into memory. Not mapped: a mapped file that another process cuts short kills the
 * reader with a signal, and the parser needs its NUL byte behind the last page, too. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pread, madvise */
#endif
#include "evaluate/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include "base/memory.h"
#include "base/threads.h"

#define LARGE ((size_t)4 << 20) /* bytes from which on threads share the reading */
#define PIECE ((size_t)1 << 20)
#define HUGE_PAGE ((size_t)2 << 20)

#if defined(__unix__) || defined(__APPLE__)

typedef struct pieces {
    int file;
    char *data;
    size_t length;
    _Atomic int failed;
} pieces;

static void read_piece(void *context, int64_t unit, int thread) {
    pieces *p = context;
    (void)thread;
    size_t at = (size_t)unit * PIECE, end = at + PIECE < p->length ? at + PIECE : p->length;
    while (at < end) {
        ssize_t n = pread(p->file, p->data + at, end - at, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            p->failed = 1;
            return;
        }
        at += (size_t)n;
    }
}

/* A large regular file: most of its time is the first touch of the memory, which threads can share
 * and huge pages make rare. *text stays NULL where the file is none, or changes meanwhile. */
static dd_status read_large(FILE *file, char **text, size_t *length) {
    struct stat info;
    int number = fileno(file);
    char *data;
    if (fstat(number, &info) != 0 || !S_ISREG(info.st_mode) || (size_t)info.st_size < LARGE)
        return DD_OK;
    pieces p = {.file = number, .length = (size_t)info.st_size};
    DD_TRY(dd_alloc(p.length + 1, &data));
    p.data = data;
#ifdef MADV_HUGEPAGE
    uintptr_t begin = ((uintptr_t)data + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    uintptr_t end = ((uintptr_t)data + p.length) & ~(HUGE_PAGE - 1);
    if (begin < end)
        (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#endif
    dd_parallel((int64_t)((p.length + PIECE - 1) / PIECE), read_piece, &p);
    char more;
    if (p.failed || pread(number, &more, 1, (off_t)p.length) != 0) {
        dd_free(data);
        return DD_OK;
    }
    data[p.length] = '\0';
    *text = data;
    *length = p.length;
    return DD_OK;
}

#else

static dd_status read_large(FILE *file, char **text, size_t *length) {
    (void)file, (void)text, (void)length;
    return DD_OK;
}

#endif

dd_status dd_file_read(const char *path, char **text, size_t *length) {
    dd_status status = DD_OK;
    char *data = NULL;
    size_t n = 0, capacity = 0;
    FILE *file = fopen(path, "rb");
    if (!file)
        return dd_fail(DD_EIO, "%s: %s", path, strerror(errno));
    char *whole = NULL;
    DD_TRY_DONE(read_large(file, &whole, length));
    if (whole) {
        *text = whole;
        goto done;
    }
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
