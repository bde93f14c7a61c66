/* One output row of nearest upsampling by a whole factor: every input pixel is read once and
 * written `factor` times. */
#include "kernels/loops.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

/* `copies` output pixels of one input pixel, n channels from ch on. */
V_INLINE void copy_vector(const dd_upsample *u, const float *x, int64_t first, int64_t copies,
                          int ch, int n) {
    const vf v = V_LOAD(x + ch, n);
    float *y = u->y + first * u->y_pitch + ch;
    if (u->base == NULL) {
        for (int64_t i = 0; i < copies; i++)
            V_STORE(y + i * u->y_pitch, v, n);
        return;
    }
    const float *base = u->base + first * u->base_pitch + ch;
    for (int64_t i = 0; i < copies; i++)
        V_STORE(y + i * u->y_pitch, v_add(V_LOAD(base + i * u->base_pitch, n), v), n);
}

void DD_NAME(upsample_f32)(const dd_upsample *u) {
    const float *x = u->x;
    for (int64_t first = 0; first < u->width; first += u->factor, x += u->pitch) {
        const int64_t left = u->width - first, copies = left < u->factor ? left : u->factor;
        int ch = 0;
        for (; ch + VL <= u->c; ch += VL)
            copy_vector(u, x, first, copies, ch, VL);
        if (ch < u->c)
            copy_vector(u, x, first, copies, ch, u->c - ch);
    }
}
