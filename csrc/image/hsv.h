/* Colour shifts in OpenCV's 8-bit units: hue 0..179 (2 degrees a step), saturation and value
 * 0..255. A shift of (15, 30, 20) is albumentations' HueSaturationValue with those limits.
 *
 * Shifts are added: H' = H + hue (mod 180); V' = V + value, cut to 0..255; S' = S + saturation,
 * cut to 0..255 and to 2 · S: a pixel without colour has no hue to be saturated in, so gray stays
 * gray and the colour noise of nearly gray pixels at most doubles. Hue and saturation are not
 * rounded to 8 bits on the way: results are within 1 of the formulas in real numbers. */
#ifndef DD_IMAGE_HSV_H
#define DD_IMAGE_HSV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define DD_HSV_HUES 1536 /* table steps around the circle: 256 a sextant */

/* About 9 KiB, to be had on the stack; filled by dd_hsv_make, then only read. */
typedef struct dd_hsv {
    bool identity;            /* all three shifts are 0: apply copies nothing, changes nothing */
    int32_t saturation;       /* shift in 1/256 */
    uint32_t per_chroma[256]; /* 256 · 65536 / chroma */
    uint32_t per_value[256];  /* 255 · 65536 / value */
    uint32_t weights[DD_HSV_HUES + 1]; /* hue + 256 → r, g, b below V in shares of chroma */
    uint8_t value[256];                /* V → V' */
} dd_hsv;

/* Fails with DD_EVALUE unless |hue| <= 180, |saturation| <= 255 and |value| <= 255. */
dd_status dd_hsv_make(double hue, double saturation, double value, dd_hsv *hsv);

/* Shifts n RGB pixels in place. */
void dd_hsv_apply(const dd_hsv *hsv, uint8_t *rgb, int n);

#endif
