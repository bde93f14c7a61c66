/* Text, pixels, merging and measures of run-length encoded masks; polygons are in mask_polygon.c.
 *
 * The compressed text has five bits a byte (offset by 48), a sixth says that more follow and the
 * highest of a number's last five is its sign; from the fourth run on the difference to the run two
 * places before is written, since neighbouring columns of an object are alike. */
#include "evaluate/mask.h"

#include <string.h>

#include "base/memory.h"

void dd_runs_free(dd_runs *runs) {
    dd_free(runs->counts);
    dd_free(runs->keys);
    *runs = (dd_runs){0};
}

dd_status dd_mask_check_size(uint64_t h, uint64_t w) {
    if (h > UINT32_MAX || w > UINT32_MAX || (w && h > DD_MASK_MAX_PIXELS / w))
        return dd_fail(DD_EVALUE, "mask: %llu x %llu pixels came, at most 2^32 - 1 are possible",
                       (unsigned long long)h, (unsigned long long)w);
    return DD_OK;
}

/* ---- text ---------------------------------------------------------------------------------- */

/* One number at text[i], byte by byte; false where it is none. */
static bool read_slowly(const char *text, size_t length, size_t *i, int64_t *out) {
    uint64_t value = 0;
    unsigned shift = 0, c;
    do {
        c = (unsigned char)text[*i] - 48u;
        if (c > 63 || shift > 30)
            return false;
        value |= (uint64_t)(c & 31) << shift;
        shift += 5;
        ++*i;
    } while (c & 32 && *i < length);
    *out = c & 16 ? (int64_t)value - ((int64_t)1 << shift) : (int64_t)value;
    return !(c & 32);
}

/* The same by eight bytes at once, without a branch for how many of them the number has. */
static bool read_at_once(const char *text, size_t *i, int64_t *out) {
    uint64_t raw, digits, ends;
    memcpy(&raw, text + *i, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    raw = __builtin_bswap64(raw);
#endif
    /* Each byte less 48, without borrowing from its neighbour. */
    digits = ((raw | 0x8080808080808080u) - 0x3030303030303030u) ^ 0x8080808080808080u;
    ends = ~digits & 0x2020202020202020u;
    if (!ends)
        return false;
    unsigned bytes = (unsigned)__builtin_ctzll(ends) / 8 + 1;
    uint64_t used = ~(uint64_t)0 >> (64 - 8 * bytes);
    if (bytes > 7 || ((raw & 0x8080808080808080u) | (digits & 0xc0c0c0c0c0c0c0c0u)) & used)
        return false;
    uint64_t v = digits & 0x1f1f1f1f1f1f1f1fu & used;
    v = (v & 0x001f001f001f001fu) | (v & 0x1f001f001f001f00u) >> 3;
    v = (v & 0x000003ff000003ffu) | (v & 0x03ff000003ff0000u) >> 6;
    v = (v & 0x00000000000fffffu) | (v & 0x000fffff00000000u) >> 12;
    unsigned unused = 64 - 5 * bytes;
    *out = (int64_t)(v << unused) >> unused; /* with the sign */
    *i += bytes;
    return true;
}

dd_status dd_mask_from_text(const char *text, size_t length, dd_runs *runs) {
    size_t first = runs->n;
    DD_TRY(dd_reserve(&runs->counts, &runs->capacity, first + length, sizeof *runs->counts));
    uint32_t *counts = runs->counts + first;
    size_t n = 0;
    for (size_t i = 0; i < length;) {
        int64_t run;
        if (!(i + 8 <= length && read_at_once(text, &i, &run)) &&
            !read_slowly(text, length, &i, &run))
            return i < length
                       ? dd_fail(DD_EFORMAT, "mask: byte %zu of the compressed counts is wrong", i)
                       : dd_fail(DD_EFORMAT, "mask: the compressed counts end within a number");
        if (n > 2)
            run += counts[n - 2];
        if (run < 0 || run > UINT32_MAX)
            return dd_fail(DD_EFORMAT, "mask: run %zu of the compressed counts is %lld", n,
                           (long long)run);
        counts[n++] = (uint32_t)run;
    }
    runs->n += n;
    return DD_OK;
}

size_t dd_mask_to_text(const dd_rle *mask, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < mask->n; i++) {
        int64_t value = mask->counts[i];
        if (i > 2)
            value -= mask->counts[i - 2];
        for (bool more = true; more;) {
            int c = (int)(value & 31);
            value >>= 5;
            more = c & 16 ? value != -1 : value != 0;
            out[n++] = (char)((c | (more ? 32 : 0)) + 48);
        }
    }
    return n;
}

/* ---- pixels -------------------------------------------------------------------------------- */

dd_status dd_mask_from_pixels(const uint8_t *pixels, uint32_t h, uint32_t w, dd_runs *runs) {
    size_t size = (size_t)h * w;
    uint8_t set = 0;
    for (size_t i = 0, start = 0; i < size || start == 0;) {
        /* Eight equal pixels at a time: masks are mostly long runs. */
        uint64_t eight, same = set ? 0x0101010101010101u : 0;
        while (i + 8 <= size && (memcpy(&eight, pixels + i, 8), eight == same))
            i += 8;
        while (i < size && (pixels[i] != 0) == set)
            i++;
        DD_TRY(dd_reserve(&runs->counts, &runs->capacity, runs->n + 1, sizeof *runs->counts));
        runs->counts[runs->n++] = (uint32_t)(i - start);
        if (i == size)
            break;
        start = i;
        set = !set;
    }
    return DD_OK;
}

dd_status dd_mask_to_pixels(const dd_rle *mask, uint8_t *pixels) {
    size_t size = (size_t)mask->h * mask->w, at = 0;
    for (size_t i = 0; i < mask->n; i++) {
        if (mask->counts[i] > size - at)
            return dd_fail(DD_EVALUE, "mask: the runs are longer than %u x %u pixels", mask->h,
                           mask->w);
        memset(pixels + at, i & 1, mask->counts[i]);
        at += mask->counts[i];
    }
    memset(pixels + at, 0, size - at);
    return DD_OK;
}

/* ---- merge --------------------------------------------------------------------------------- */

/* One side of a merge: what is left of its present run. */
typedef struct side {
    const uint32_t *counts;
    size_t n, next;
    uint32_t left;
    bool set;
} side;

/* Whether the side has ended: what follows are zeros. */
static bool ended(const side *s) {
    return !s->left && s->next == s->n;
}

/* Takes `step` pixels, and the next run where the present one is used up. One run a step, even if
 * it is empty: so empty runs leave the same traces as in maskApi. */
static void advance(side *s, uint32_t step) {
    if (ended(s)) {
        s->set = false;
        return;
    }
    s->left -= step;
    if (!s->left && s->next < s->n) {
        s->left = s->counts[s->next++];
        s->set = !s->set;
    }
}

/* Merges a and b into `out`, which has room for a.n + b.n runs; returns how many came. Sides of
 * different length do not hang it: the shorter one goes on as zeros. */
static size_t merge_two(side a, side b, bool intersect, uint32_t *out) {
    size_t m = 0;
    uint32_t run = 0;
    bool set = false;
    if (!a.n || !b.n)
        return 0;
    a.left = a.counts[0], b.left = b.counts[0];
    a.next = b.next = 1;
    for (bool more = true; more;) {
        uint32_t step = ended(&a) || (!ended(&b) && b.left < a.left) ? b.left : a.left;
        run += step;
        advance(&a, step);
        advance(&b, step);
        more = a.left || b.left;
        bool now = intersect ? a.set && b.set : a.set || b.set;
        if (now != set || !more) {
            out[m++] = run;
            run = 0;
        }
        set = now;
    }
    return m;
}

dd_status dd_mask_merge(const dd_rle *masks, size_t n, bool intersect, dd_runs *runs, uint32_t *h,
                        uint32_t *w) {
    size_t first = runs->n, total = 0;
    *h = *w = 0;
    for (size_t i = 0; i < n; i++) {
        if (masks[i].h != masks[0].h || masks[i].w != masks[0].w)
            return DD_OK;
        DD_TRY(dd_size_add(total, masks[i].n, "mask_merge", &total));
    }
    if (!n)
        return DD_OK;
    /* Two halves behind the list: the merged runs so far, and the next ones. */
    DD_TRY(
        dd_reserve(&runs->counts, &runs->capacity, first + 2 * (total + 2), sizeof *runs->counts));
    uint32_t *now = runs->counts + first, *next = now + total + 2;
    size_t m = masks[0].n;
    memcpy(now, masks[0].counts, m * sizeof *now);
    for (size_t i = 1; i < n; i++) {
        side a = {.counts = now, .n = m}, b = {.counts = masks[i].counts, .n = masks[i].n};
        m = merge_two(a, b, intersect, next);
        uint32_t *t = now;
        now = next;
        next = t;
    }
    memmove(runs->counts + first, now, m * sizeof *now);
    runs->n = first + m;
    *h = masks[0].h;
    *w = masks[0].w;
    return DD_OK;
}

/* ---- measures ------------------------------------------------------------------------------ */

uint64_t dd_mask_area(const dd_rle *mask) {
    uint64_t area = 0;
    for (size_t i = 1; i < mask->n; i += 2)
        area += mask->counts[i];
    return area;
}

/* The first and last pixel of each run of ones decide, and a run over a column's end spans the
 * whole height. Empty runs do not count. (Where all runs of ones are empty, maskApi subtracts below
 * zero and gives boxes of four billion pixels; here that is an empty box as any other.) */
void dd_mask_box(const dd_rle *mask, double box[4]) {
    uint32_t h = mask->h, x0 = mask->w, y0 = h, x1 = 0, y1 = 0, x = 0, y = 0;
    size_t pairs = mask->n / 2;
    bool any = false;
    memset(box, 0, 4 * sizeof *box);
    for (size_t i = 0; h && i < pairs; i++) {
        /* The place is kept as column and row: a run seldom spans more than one column. */
        uint64_t first = (uint64_t)y + mask->counts[2 * i];
        x += first < h ? 0 : first < 2 * (uint64_t)h ? 1 : (uint32_t)(first / h);
        y = (uint32_t)(first < h ? first : first < 2 * (uint64_t)h ? first - h : first % h);
        uint32_t ones = mask->counts[2 * i + 1];
        if (!ones)
            continue;
        uint64_t last = (uint64_t)y + ones - 1;
        uint32_t more = last < h ? 0 : (uint32_t)(last / h);
        any = true;
        x0 = x < x0 ? x : x0;
        x1 = x + more > x1 ? x + more : x1;
        y0 = more ? 0 : y < y0 ? y : y0;
        y1 = more ? h - 1 : last > y1 ? (uint32_t)last : y1;
        last++;
        x += last < h ? 0 : (uint32_t)(last / h);
        y = last < h ? (uint32_t)last : (uint32_t)(last % h);
    }
    if (!any)
        return;
    box[0] = x0;
    box[1] = y0;
    box[2] = (double)x1 - x0 + 1;
    box[3] = (double)y1 - y0 + 1;
}
