/* A main() for fuzz targets where no fuzzer is at hand: runs the target on every file that the
 * arguments name, and on every file of the folders among them; then on each file cut short and
 * with single bytes changed, so that a small corpus goes a long way. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_variants(uint8_t *data, size_t size) {
    LLVMFuzzerTestOneInput(data, size);
    size_t step = size / 256 + 1; /* about 256 places a file */
    for (size_t i = 0; i < size; i += step) {
        static const uint8_t bytes[] = {0, '"', '\\', '{', ']', ',', '9', 0xff};
        LLVMFuzzerTestOneInput(data, i);
        uint8_t kept = data[i];
        for (size_t b = 0; b < sizeof bytes; b++) {
            data[i] = bytes[b];
            LLVMFuzzerTestOneInput(data, size);
        }
        data[i] = kept;
    }
}

static int try_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return 0;
    uint8_t *data = malloc(1 << 20);
    size_t size = data ? fread(data, 1, 1 << 20, file) : 0;
    int good = data && !ferror(file);
    fclose(file);
    if (good)
        try_variants(data, size);
    free(data);
    return good;
}

int main(int argc, char **argv) {
    int count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        if (!folder) {
            count += try_file(argv[i]);
            continue;
        }
        for (struct dirent *entry; (entry = readdir(folder));) {
            char path[4096];
            if (entry->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name);
            count += try_file(path);
        }
        closedir(folder);
    }
    printf("replay: %d files\n", count);
    return count == 0; /* a corpus that is not there is a mistake */
}
