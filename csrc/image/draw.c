/* What is drawn for a sample. Every sample has two streams of its own (one for the pieces' values,
 * one for mixing), and every piece takes the same number of draws whatever the ranges are, so a
 * changed range moves no other value. */
#include "image/augment.h"

#include <math.h>

/* Sample numbers that no position has: the epoch's own draws. */
#define SAMPLE_EPOCH UINT32_MAX

enum { MIX_CYCLE = 5 }; /* four CutMix, one Mosaic */

static dd_status check_range(const char *name, double value, double low, double high) {
    if (value >= low && value <= high)
        return DD_OK; /* false for NaN */
    return dd_fail(DD_EVALUE, "augment: %s is %g, %g to %g is needed", name, value, low, high);
}

dd_status dd_augment_check(const dd_augment *a) {
    DD_TRY(check_range("scale (low)", a->scale_low, 0.05, 20.0));
    DD_TRY(check_range("scale (high)", a->scale_high, a->scale_low, 20.0));
    DD_TRY(check_range("degrees", a->degrees, 0.0, 180.0));
    DD_TRY(check_range("shift", a->shift, 0.0, 1.0));
    DD_TRY(check_range("flip_lr", a->flip_lr, 0.0, 1.0));
    DD_TRY(check_range("flip_ud", a->flip_ud, 0.0, 1.0));
    DD_TRY(check_range("hue", a->hue, 0.0, 90.0));
    DD_TRY(check_range("saturation", a->saturation, 0.0, 255.0));
    DD_TRY(check_range("value", a->value, 0.0, 255.0));
    return check_range("mix", a->mix, 0.0, 1.0);
}

dd_piece dd_piece_identity(void) {
    return (dd_piece){.scale = 1.0, .x1 = 1.0, .y1 = 1.0, .zoom = 1.0};
}

/* [low, high], exact at low when both are equal (low + u · 0). */
static double between(dd_stream *s, double low, double high) {
    return low + dd_stream_uniform(s) * (high - low);
}

static dd_piece draw_piece(const dd_augment *a, dd_stream *s) {
    dd_piece p = dd_piece_identity();
    p.scale = between(s, a->scale_low, a->scale_high);
    p.degrees = between(s, -a->degrees, a->degrees);
    p.shift_x = between(s, -a->shift, a->shift);
    p.shift_y = between(s, -a->shift, a->shift);
    p.flip_lr = dd_stream_uniform(s) < a->flip_lr;
    p.flip_ud = dd_stream_uniform(s) < a->flip_ud;
    p.hue = between(s, -a->hue, a->hue);
    p.saturation = between(s, -a->saturation, a->saturation);
    p.value = between(s, -a->value, a->value);
    return p;
}

uint64_t dd_mix_count(double mix, uint64_t seed, uint32_t epoch, uint64_t position) {
    dd_stream s;
    dd_stream_init(&s, seed, epoch, SAMPLE_EPOCH, DD_FOR_MIX);
    /* Systematic sampling: one random phase for the epoch, then every 1/mix-th sample. */
    return (uint64_t)floor((double)position * mix + dd_stream_uniform(&s));
}

static void draw_cutmix(dd_stream *s, dd_recipe *r) {
    dd_piece *p = &r->pieces[1];
    double w = between(s, 0.3, 0.7), h = between(s, 0.3, 0.7);
    p->x0 = between(s, 0.0, 1.0 - w);
    p->y0 = between(s, 0.0, 1.0 - h);
    p->x1 = p->x0 + w;
    p->y1 = p->y0 + h;
}

static void draw_mosaic(dd_stream *s, dd_recipe *r) {
    double cx = between(s, 0.35, 0.65), cy = between(s, 0.35, 0.65);
    for (int i = 0; i < 4; i++) {
        dd_piece *p = &r->pieces[i];
        int right = i & 1, low = i >> 1;
        p->x0 = right ? cx : 0.0;
        p->x1 = right ? 1.0 : cx;
        p->y0 = low ? cy : 0.0;
        p->y1 = low ? 1.0 : cy;
        double w = p->x1 - p->x0, h = p->y1 - p->y0;
        p->zoom = between(s, w > h ? w : h, 1.0);
        p->offset_x = p->x0 - dd_stream_uniform(s) * (p->zoom - w);
        p->offset_y = p->y0 - dd_stream_uniform(s) * (p->zoom - h);
    }
}

dd_status dd_recipe_draw(const dd_augment *a, uint64_t seed, uint32_t epoch, uint32_t position,
                         uint32_t n_pictures, bool mixing, dd_recipe *recipe) {
    DD_TRY(dd_augment_check(a));
    if (n_pictures < 1)
        return dd_fail(DD_EVALUE, "augment: no pictures came, at least one is needed");
    if (position >= SAMPLE_EPOCH)
        return dd_fail(DD_EVALUE, "augment: position %lu came, less than 2^32 - 1 is needed",
                       (unsigned long)position);
    dd_recipe r = {.n = 1};
    if (mixing) {
        uint64_t k = dd_mix_count(a->mix, seed, epoch, position);
        if (dd_mix_count(a->mix, seed, epoch, (uint64_t)position + 1) > k)
            r.n = k % MIX_CYCLE == MIX_CYCLE - 1 ? 4 : 2;
    }
    dd_stream values, mix;
    dd_stream_init(&values, seed, epoch, position, DD_FOR_AUGMENT);
    dd_stream_init(&mix, seed, epoch, position, DD_FOR_MIX);
    for (int i = 0; i < r.n; i++) {
        r.pieces[i] = draw_piece(a, &values);
        if (i > 0)
            r.partners[i] = dd_stream_below(&mix, n_pictures);
    }
    if (r.n == 2)
        draw_cutmix(&mix, &r);
    else if (r.n == 4)
        draw_mosaic(&mix, &r);
    *recipe = r;
    return DD_OK;
}
