/* Pieces to pixels and boxes: the matrix, the paint, and the rules for boxes. */
#include "image/augment.h"

#include <math.h>

typedef struct box {
    double x0, y0, x1, y1;
} box;

static double area(box b) {
    return b.x1 > b.x0 && b.y1 > b.y0 ? (b.x1 - b.x0) * (b.y1 - b.y0) : 0.0;
}

static box cut(box b, dd_rect r) {
    return (box){fmax(b.x0, r.x0), fmax(b.y0, r.y0), fmin(b.x1, r.x1), fmin(b.y1, r.y1)};
}

const char *dd_drop_name(dd_drop drop) {
    static const char *const names[DD_DROPS] = {"",        "outside", "clipped",
                                                "covered", "tiny",    "flat"};
    return drop >= 0 && drop < DD_DROPS ? names[drop] : "?";
}

/* ---- pieces -------------------------------------------------------------------------------- */

/* Nothing but the letterbox: such a piece goes through the resize, and drops no box. */
static bool is_identity(const dd_piece *p) {
    return p->scale == 1.0 && p->degrees == 0.0 && p->shift_x == 0.0 && p->shift_y == 0.0 &&
           p->flip_lr == 0.0 && p->flip_ud == 0.0 && p->zoom == 1.0 && p->offset_x == 0.0 &&
           p->offset_y == 0.0 && p->x0 == 0.0 && p->y0 == 0.0 && p->x1 == 1.0 && p->y1 == 1.0;
}

dd_rect dd_piece_rect(const dd_piece *p, int side) {
    /* Shared edges of neighbours round alike, so quadrants neither overlap nor leave a gap. */
    return (dd_rect){(int)floor(p->x0 * side + 0.5), (int)floor(p->y0 * side + 0.5),
                     (int)floor(p->x1 * side + 0.5), (int)floor(p->y1 * side + 0.5)};
}

static dd_status check_piece(const dd_piece *p) {
    if (!(p->scale > 0.0) || !(p->zoom > 0.0) || !isfinite(p->scale * p->zoom))
        return dd_fail(DD_EVALUE, "compose: scale %g and zoom %g came, more than 0 is needed",
                       p->scale, p->zoom);
    if (!isfinite(p->degrees + p->shift_x + p->shift_y + p->offset_x + p->offset_y))
        return dd_fail(DD_EVALUE, "compose: a turn, shift or offset is not finite");
    if (!(p->x0 >= 0.0) || !(p->y0 >= 0.0) || !(p->x1 <= 1.0) || !(p->y1 <= 1.0) ||
        !(p->x0 <= p->x1) || !(p->y0 <= p->y1))
        return dd_fail(
            DD_EVALUE,
            "compose: a rectangle (%g, %g, %g, %g) came, one within (0, 0, 1, 1) is needed", p->x0,
            p->y0, p->x1, p->y1);
    return DD_OK;
}

dd_status dd_piece_matrix(const dd_piece *p, int width, int height, int side, dd_warp_matrix *m) {
    dd_fit fit;
    DD_TRY(check_piece(p));
    DD_TRY(dd_fit_make(width, height, side, &fit));
    double half = 0.5 * side, turn = p->degrees * (3.14159265358979323846 / 180.0);
    double c = p->scale * cos(turn), s = p->scale * sin(turn);
    double mirror_x = p->flip_lr != 0.0 ? -1.0 : 1.0, mirror_y = p->flip_ud != 0.0 ? -1.0 : 1.0;
    dd_warp_matrix letterbox = {fit.scale, 0.0, fit.left - half, 0.0, fit.scale, fit.top - half};
    dd_warp_matrix flip = {mirror_x, 0.0, 0.0, 0.0, mirror_y, 0.0};
    dd_warp_matrix turned = {c, -s, half + p->shift_x * side, s, c, half + p->shift_y * side};
    dd_warp_matrix window = {p->zoom, 0.0, p->offset_x * side, 0.0, p->zoom, p->offset_y * side};
    *m = dd_warp_matrix_after(window,
                              dd_warp_matrix_after(turned, dd_warp_matrix_after(flip, letterbox)));
    return DD_OK;
}

static dd_status paint(const dd_piece *piece, const dd_picture *picture, const dd_warp_matrix *m,
                       int side, const dd_pixels *out) {
    dd_hsv hsv;
    DD_TRY(dd_hsv_make(piece->hue, piece->saturation, piece->value, &hsv));
    if (!(picture->scale > 0.0 && picture->scale <= 1.0))
        return dd_fail(DD_EVALUE, "compose: a picture at scale %g came, 0 to 1 is needed",
                       picture->scale);
    if (is_identity(piece)) {
        dd_fit fit;
        DD_TRY(dd_fit_make(picture->width, picture->height, side, &fit));
        DD_TRY(dd_letterbox(&picture->pixels, picture->scale, &fit, out));
        for (int y = fit.top; y < fit.top + fit.height; y++)
            dd_hsv_apply(&hsv, dd_pixels_row(out, y) + 3 * (ptrdiff_t)fit.left, fit.width);
        return DD_OK;
    }
    dd_warp_matrix back, decoded = {picture->scale, 0.0, 0.0, 0.0, picture->scale, 0.0};
    DD_TRY(dd_warp_matrix_invert(m, &back));
    back = dd_warp_matrix_after(decoded, back);
    return dd_warp(&picture->pixels, &back, &hsv, out, dd_piece_rect(piece, side));
}

/* ---- boxes --------------------------------------------------------------------------------- */

static box move_box(const float *b, const dd_warp_matrix *m) {
    if (m->b == 0.0 &&
        m->d == 0.0) { /* no turn: corner by corner, so that nothing is rounded twice */
        double x0 = m->a * b[0] + m->c, x1 = m->a * b[2] + m->c;
        double y0 = m->e * b[1] + m->f, y1 = m->e * b[3] + m->f;
        return (box){fmin(x0, x1), fmin(y0, y1), fmax(x0, x1), fmax(y0, y1)};
    }
    double cx = 0.5 * ((double)b[0] + b[2]), cy = 0.5 * ((double)b[1] + b[3]);
    double p = 0.5 * ((double)b[2] - b[0]), q = 0.5 * ((double)b[3] - b[1]);
    double x = m->a * cx + m->b * cy + m->c, y = m->d * cx + m->e * cy + m->f;
    double w = sqrt(m->a * p * m->a * p + m->b * q * m->b * q);
    double h = sqrt(m->d * p * m->d * p + m->e * q * m->e * q);
    return (box){x - w, y - h, x + w, y + h};
}

/* The bounding box of b without the cover: smaller than b only where the cover spans b's width or
 * height and reaches over one of its sides. */
static box uncovered(box b, dd_rect cover) {
    if (cover.y0 <= b.y0 && cover.y1 >= b.y1) {
        if (cover.x0 <= b.x0)
            b.x0 = fmin(fmax(b.x0, cover.x1), b.x1);
        else if (cover.x1 >= b.x1)
            b.x1 = fmin(b.x1, cover.x0);
    } else if (cover.x0 <= b.x0 && cover.x1 >= b.x1) {
        if (cover.y0 <= b.y0)
            b.y0 = fmin(fmax(b.y0, cover.y1), b.y1);
        else if (cover.y1 >= b.y1)
            b.y1 = fmin(b.y1, cover.y0);
    }
    return b;
}

/* Judges one box of piece i and leaves what is visible of it in *b. */
static dd_drop judge(box *b, bool ignore, const dd_canvas *canvas, int i) {
    dd_limits limits = canvas->limits;
    if (ignore)
        limits = (dd_limits){0.0, 0.0};
    double full = area(*b);
    *b = cut(*b, dd_piece_rect(&canvas->pieces[i], canvas->side));
    double inside = area(*b), visible = inside;
    if (inside <= 0.0)
        return DD_DROP_OUTSIDE;
    if (inside <= limits.min_clipped * full)
        return DD_DROP_CLIPPED;
    for (int k = i + 1; k < canvas->n; k++) {
        dd_rect cover = dd_piece_rect(&canvas->pieces[k], canvas->side);
        visible -= area(cut(*b, cover));
        if (visible < limits.min_visible * inside || visible <= limits.min_clipped * full)
            return DD_DROP_COVERED;
        *b = uncovered(*b, cover);
    }
    bool tiny = b->x1 - b->x0 < 1.0 || b->y1 - b->y0 < 1.0;
    return tiny && !ignore ? DD_DROP_TINY : DD_KEPT;
}

/* Moves the boxes of piece i and judges them. */
static void compose_boxes(const dd_canvas *canvas, int i, const dd_warp_matrix *m, float *boxes,
                          uint8_t *drops) {
    const dd_picture *picture = &canvas->pictures[i];
    bool plain = canvas->n == 1 && is_identity(&canvas->pieces[i]);
    for (int k = 0; k < picture->n_boxes; k++) {
        const float *from = picture->boxes + 4 * (ptrdiff_t)k;
        bool ignore = picture->ignore && picture->ignore[k];
        box b = move_box(from, m);
        dd_drop drop = DD_KEPT;
        if (!(from[2] > from[0] && from[3] > from[1])) /* reversed or NaN, too */
            drop = DD_DROP_FLAT;
        else if (plain) /* rounding alone may have left the square */
            b = cut(b, (dd_rect){0, 0, canvas->side, canvas->side});
        else
            drop = judge(&b, ignore, canvas, i);
        drops[k] = (uint8_t)drop;
        const double sides[4] = {b.x0, b.y0, b.x1, b.y1};
        for (int c = 0; c < 4; c++)
            boxes[4 * (ptrdiff_t)k + c] = (float)sides[c];
    }
}

dd_status dd_compose(const dd_canvas *canvas, const dd_pixels *out, float *boxes, uint8_t *drops) {
    int side = canvas->side;
    if (canvas->n < 1 || canvas->n > DD_MAX_PIECES)
        return dd_fail(DD_EVALUE, "compose: %d pieces came, 1 to %d are needed", canvas->n,
                       DD_MAX_PIECES);
    DD_TRY(dd_pixels_check(out, "compose: target"));
    if (out->width != side || out->height != side)
        return dd_fail(DD_EVALUE, "compose: a target of %d x %d came, %d x %d is needed",
                       out->width, out->height, side, side);
    for (int i = 0; i < canvas->n; i++) {
        const dd_picture *picture = &canvas->pictures[i];
        const dd_piece *piece = &canvas->pieces[i];
        dd_warp_matrix m;
        DD_TRY(dd_piece_matrix(piece, picture->width, picture->height, side, &m));
        DD_TRY(paint(piece, picture, &m, side, out));
        compose_boxes(canvas, i, &m, boxes, drops);
        if (picture->n_boxes > 0) {
            boxes += 4 * (ptrdiff_t)picture->n_boxes;
            drops += picture->n_boxes;
        }
    }
    return DD_OK;
}
