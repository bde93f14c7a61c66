/* Checksums of files: SHA-256 (FIPS 180-4), which our checkpoints end with, and zip's CRC-32. Both
 * find damage; neither is kept secret or signs anything. */
#ifndef DD_IO_CHECKSUM_H
#define DD_IO_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The digest of `length` bytes. Cannot fail. */
void dd_sha256(const void *data, size_t length, uint8_t digest[32]);

/* The CRC-32 of zip, gzip and PNG: reflected polynomial 0xEDB88320. Cannot fail. */
uint32_t dd_crc32(const void *data, size_t length);

#endif
