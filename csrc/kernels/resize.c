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

/* ---- weighted taps ------------------------------------------------------------------------- */

/* NR rows by NS taps of a pixel: the rows are summed first, then the columns. */
V_INLINE void resize_vector(const dd_resize_row *r, int64_t x, float *y, int ch, int n,
                            const int NR, const int NS) {
    vf sum = v_zero();
    for (int s = 0; s < NS; s++) {
        const int64_t from = (int64_t)r->at[x * NS + s] * r->pitch + ch;
        vf column = v_zero();
        for (int k = 0; k < NR; k++)
            column = v_fma(v_set1(r->row_weight[k]), V_LOAD(r->rows[k] + from, n), column);
        sum = v_fma(v_set1(r->weight[x * NS + s]), column, sum);
    }
    if (r->base != NULL)
        sum = v_add(sum, V_LOAD(r->base + x * r->base_pitch + ch, n));
    V_STORE(y + ch, sum, n);
}

V_INLINE void resize_row(const dd_resize_row *r, const int NR, const int NS) {
    for (int64_t x = 0; x < r->width; x++) {
        float *y = r->y + x * r->y_pitch;
        int ch = 0;
        for (; ch + VL <= r->c; ch += VL)
            resize_vector(r, x, y, ch, VL, NR, NS);
        if (ch < r->c)
            resize_vector(r, x, y, ch, r->c - ch, NR, NS);
    }
}

void DD_NAME(resize_f32)(const dd_resize_row *r) {
    if (r->n_rows == 2 && r->taps == 2)
        resize_row(r, 2, 2);
    else if (r->n_rows == 1 && r->taps == 2)
        resize_row(r, 1, 2);
    else
        resize_row(r, r->n_rows, r->taps);
}
