/* Views of pixels: their check, their windows, and the fill of borders. */
#include "image/pixels.h"

#include <string.h>

dd_status dd_pixels_check(const dd_pixels *picture, const char *who) {
    if (picture->width < 1 || picture->height < 1 || picture->width > DD_PIXEL_MAX_SIDE ||
        picture->height > DD_PIXEL_MAX_SIDE)
        return dd_fail(DD_EVALUE,
                       "%s: a picture of %d x %d pixels came, sides of 1 to %d are needed", who,
                       picture->width, picture->height, DD_PIXEL_MAX_SIDE);
    if (!picture->data)
        return dd_fail(DD_EVALUE, "%s: a picture without data came", who);
    if (picture->stride < 3 * (ptrdiff_t)picture->width)
        return dd_fail(DD_EVALUE, "%s: a stride of %lld bytes came, a row of %d pixels needs %d",
                       who, (long long)picture->stride, picture->width, 3 * picture->width);
    return DD_OK;
}

dd_pixels dd_pixels_window(const dd_pixels *picture, dd_rect where) {
    dd_pixels window = {
        .data = dd_pixels_row(picture, where.y0) + 3 * (ptrdiff_t)where.x0,
        .width = where.x1 - where.x0,
        .height = where.y1 - where.y0,
        .stride = picture->stride,
    };
    return window;
}

void dd_pixels_fill(const dd_pixels *picture, dd_rect where, uint8_t value) {
    int x0 = where.x0 < 0 ? 0 : where.x0,
        x1 = where.x1 > picture->width ? picture->width : where.x1;
    int y0 = where.y0 < 0 ? 0 : where.y0;
    int y1 = where.y1 > picture->height ? picture->height : where.y1;
    if (x0 >= x1)
        return;
    for (int y = y0; y < y1; y++)
        memset(dd_pixels_row(picture, y) + 3 * (ptrdiff_t)x0, value, 3 * (size_t)(x1 - x0));
}
