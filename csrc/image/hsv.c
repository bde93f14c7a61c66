/* RGB → HSV → shift → RGB in one step a pixel, without ever writing HSV down.
 *
 * With V the largest channel, C = V − min the chroma and w in [0, 1] a channel's distance from V
 * (a function of hue alone), a channel is V − C·w. So a table over the hue gives the three new
 * distances at once, the hue shift being in the table, and saturation only changes C. */
#include "image/hsv.h"

#include <math.h>
#include <string.h>

enum {
    SEXTANT = DD_HSV_HUES / 6,
    SHARE_BITS = 8,
    PACK_BITS = 10,
    PACK_MASK = (1 << PACK_BITS) - 1
};

/* A channel's distance from the largest one, 0 to 256 = the chroma, at `hue` sextants from the
 * channel's own primary colour. */
static uint32_t distance(double hue) {
    double away = fabs(hue - 6.0 * floor(hue / 6.0 + 0.5)); /* 0..3 */
    double d = away - 1.0;
    d = d < 0.0 ? 0.0 : d > 1.0 ? 1.0 : d;
    return (uint32_t)(d * (1 << SHARE_BITS) + 0.5);
}

dd_status dd_hsv_make(double hue, double saturation, double value, dd_hsv *hsv) {
    if (!(fabs(hue) <= 180.0) || !(fabs(saturation) <= 255.0) || !(fabs(value) <= 255.0))
        return dd_fail(DD_EVALUE,
                       "hsv: shifts of (%g, %g, %g) came, at most (180, 255, 255) is needed", hue,
                       saturation, value);
    hsv->identity = hue == 0.0 && saturation == 0.0 && value == 0.0;
    if (hsv->identity)
        return DD_OK;
    hsv->saturation = (int32_t)lrint(saturation * 256.0);
    hsv->per_chroma[0] = hsv->per_value[0] = 0;
    for (uint32_t i = 1; i < 256; i++) {
        hsv->per_chroma[i] = ((SEXTANT << 16) + i / 2) / i;
        hsv->per_value[i] = ((255u << 16) + i / 2) / i;
    }
    for (int i = 0; i < 256; i++) {
        double v = i + value;
        hsv->value[i] = (uint8_t)(v < 0.0 ? 0.0 : v > 255.0 ? 255.0 : floor(v + 0.5));
    }
    for (int i = 0; i <= DD_HSV_HUES; i++) {
        double h = (double)(i - SEXTANT) / SEXTANT + hue / 30.0; /* sextants; red is 0 */
        hsv->weights[i] =
            distance(h) | distance(h - 2.0) << PACK_BITS | distance(h - 4.0) << 2 * PACK_BITS;
    }
    return DD_OK;
}

void dd_hsv_apply(const dd_hsv *hsv, uint8_t *rgb, int n) {
    if (hsv->identity)
        return;
    const int32_t shift = hsv->saturation;
    for (int i = 0; i < n; i++, rgb += 3) {
        int r = rgb[0], g = rgb[1], b = rgb[2];
        int high = r > g ? r : g, low = r > g ? g : r;
        high = high > b ? high : b;
        low = low < b ? low : b;
        int chroma = high - low;
        /* The hue's sextant pair by the largest channel; the difference places it within. */
        int difference = high == r ? g - b : high == g ? b - r : r - g;
        int sextants = high == r ? 1 : high == g ? 3 : 5;
        int hue = sextants * SEXTANT +
                  ((difference * (int32_t)hsv->per_chroma[chroma] + (1 << 15)) >> 16);
        uint32_t weights = hsv->weights[hue];
        /* Saturation in 1/256, its shift, its two limits, and back to a chroma of 8.8 bits. */
        int32_t s = (int32_t)((uint32_t)chroma * hsv->per_value[high] >> 8), s2 = s + shift;
        int32_t most = 2 * s < 255 * 256 ? 2 * s : 255 * 256;
        s2 = s2 < 0 ? 0 : s2 > most ? most : s2;
        int v = hsv->value[high];
        int c = (s2 * v + 127) / 255, top = (v << 2 * SHARE_BITS) + (1 << (2 * SHARE_BITS - 1));
        rgb[0] = (uint8_t)((top - c * (int)(weights & PACK_MASK)) >> 2 * SHARE_BITS);
        rgb[1] = (uint8_t)((top - c * (int)(weights >> PACK_BITS & PACK_MASK)) >> 2 * SHARE_BITS);
        rgb[2] = (uint8_t)((top - c * (int)(weights >> 2 * PACK_BITS)) >> 2 * SHARE_BITS);
    }
}
