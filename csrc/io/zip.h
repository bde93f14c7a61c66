/* A strict reader of zip files whose members are stored as they are: the container of torch's and
 * our checkpoints (APPNOTE 6.3, sections 4.3.7, 4.3.12 and 4.3.16).
 *
 * Everything is checked against the file's length before it is looked at; members are pieces of
 * the file, nothing is copied or unpacked, and together they are no longer than it. Not read:
 * compressed, encrypted and split files, bytes before the first member, and files of 4 GiB or 65535
 * members and more. */
#ifndef DD_IO_ZIP_H
#define DD_IO_ZIP_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct dd_zip_member {
    const char *name; /* not NUL-terminated; borrowed from the file, like the data */
    size_t name_length;
    const unsigned char *data;
    size_t size;
    uint32_t crc; /* what the file says; see dd_zip_check */
} dd_zip_member;

typedef struct dd_zip {
    dd_zip_member *members; /* by ascending name; no name comes twice */
    size_t n;
} dd_zip;

/* The members of the file in data[0..length), which is borrowed for the zip's life. `file` is its
 * name for messages. Fails with DD_EFORMAT, DD_ENOMEM. */
dd_status dd_zip_read(const char *data, size_t length, const char *file, dd_zip *zip);
void dd_zip_free(dd_zip *zip); /* a zeroed one is allowed */

/* The member of a name; NULL where there is none. O(log n). */
const dd_zip_member *dd_zip_find(const dd_zip *zip, const char *name, size_t name_length);

/* Fails with DD_EFORMAT where the data is not what the checksum was made of. */
dd_status dd_zip_check(const dd_zip_member *member, const char *file);

#endif
