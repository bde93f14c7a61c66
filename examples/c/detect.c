/* detect model.pt image.ppm: what a detector finds on a picture, a line an object:
 *
 *     class name, confidence, and the box x0 y0 x1 y1 in pixels, separated by tabs
 *
 * A whole program over libdeepseek_det; README.md beside this file says how to build it. Pictures
 * are binary PPM (P6) of 8 bits, which any converter writes: convert photo.jpg photo.ppm */
#include <ctype.h>
#include <stdio.h>

#include "dd.h"

/* The next whole number of a PPM's head, which may hold comments; -1 where there is none. */
static int read_number(FILE *file) {
    int c = fgetc(file), number = 0, digits = 0;
    for (; isspace(c) || c == '#'; c = fgetc(file))
        while (c == '#' && (c = fgetc(file)) != '\n' && c != EOF)
            c = '#';
    for (; isdigit(c) && digits < 6; c = fgetc(file), digits++)
        number = 10 * number + (c - '0');
    return digits && isspace(c) ? number : -1; /* one white space ends it, the last one too */
}

/* Reads a picture; its pixels are the caller's to dd_free(). */
static dd_status read_ppm(const char *path, dd_pixels *picture) {
    dd_status status = DD_OK;
    dd_pixels p = {0};
    FILE *file = fopen(path, "rb");
    if (!file)
        return dd_fail(DD_EIO, "%s: can't be opened", path);
    if (fgetc(file) == 'P' && fgetc(file) == '6') {
        p.width = read_number(file);
        p.height = read_number(file);
    }
    if (p.width < 1 || p.width > DD_PIXEL_MAX_SIDE || p.height < 1 ||
        p.height > DD_PIXEL_MAX_SIDE || read_number(file) != 255) {
        status = dd_fail(DD_EFORMAT, "%s: no binary PPM of 8 bits", path);
        goto done;
    }
    p.stride = 3 * (ptrdiff_t)p.width;
    DD_TRY_DONE(dd_alloc((size_t)p.stride * (size_t)p.height, &p.data));
    if (fread(p.data, (size_t)p.stride, (size_t)p.height, file) != (size_t)p.height) {
        status = dd_fail(DD_EFORMAT, "%s: the picture is cut off", path);
        goto done;
    }
    *picture = p;
    p.data = NULL;
done:
    dd_free(p.data);
    fclose(file);
    return status;
}

static dd_status detect(const char *model_path, const char *image_path) {
    enum { MOST = 300 };
    dd_status status;
    dd_model *model = NULL;
    dd_detector *detector = NULL;
    dd_pixels image = {0};
    dd_detect_options options = dd_detect_defaults();
    dd_detection found[MOST];
    int32_t count = 0;

    options.max_det = MOST;
    DD_TRY_DONE(dd_model_load(model_path, &model));
    DD_TRY_DONE(dd_detector_create(model, 0, &detector)); /* 0: the size it was trained at */
    DD_TRY_DONE(read_ppm(image_path, &image));
    DD_TRY_DONE(dd_detector_run(detector, &image, &options, found, &count));
    for (int32_t i = 0; i < count; i++) {
        const dd_detection *d = &found[i];
        const char *name = model->n_classes ? model->classes[d->cls] : "object";
        printf("%s\t%.9g\t%.9g\t%.9g\t%.9g\t%.9g\n", name, d->score, d->x0, d->y0, d->x1, d->y1);
    }
done:
    dd_free(image.data);
    dd_detector_destroy(detector);
    dd_model_destroy(model);
    return status;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: detect model.pt image.ppm\n");
        return 2;
    }
    if (detect(argv[1], argv[2]) != DD_OK) {
        fprintf(stderr, "error: %s\n", dd_message());
        return 1;
    }
    return 0;
}
