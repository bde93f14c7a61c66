/* The machine that runs a file's pickle; for torch_file.c, which describes the whole. */
#ifndef DD_IO_PICKLE_H
#define DD_IO_PICKLE_H

#include "io/torch_file.h"
#include "io/zip.h"

/* Where a pickle's persistent ids lead. */
typedef struct dd_pickle_source {
    const char *name;   /* of the file, for messages */
    const char *folder; /* of the members, not NUL-terminated */
    size_t folder_length;
    const dd_zip *zip;
} dd_pickle_source;

/* Runs program[0..length), behind which a byte may be read, into an empty file; borrows the program
 * and the zip's data for the file's life. Fails with DD_EFORMAT, DD_ENOMEM; then `file` is only
 * fit for dd_torch_destroy(). */
dd_status dd_pickle_run(const unsigned char *program, size_t length, const dd_pickle_source *source,
                        dd_torch_file *file);

#endif
