/* Non-maximum suppression: greedy, exact, deterministic.
 *
 * Order: score descending, then index ascending. A box is suppressed by a kept one of its class
 * when their IoU is strictly above the threshold (torchvision's rule and arithmetic). A box or
 * score that is NaN is never kept; a box of no area never suppresses another. */
#ifndef DD_DETECT_NMS_H
#define DD_DETECT_NMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Sort keys: ascending keys are descending scores, then ascending indices. score is not NaN. */
uint64_t dd_score_key(float score, uint32_t index);
static inline uint32_t dd_key_index(uint64_t key) {
    return (uint32_t)key;
}
float dd_key_score(uint64_t key);

/* Sorts ascending; spare has room for n keys too. No recursion, no allocation, O(n). */
void dd_keys_sort(uint64_t *keys, uint64_t *spare, int64_t n);

/* The boxes kept so far, by column. */
typedef struct dd_kept {
    float *x0, *y0, *x1, *y1, *area;
    int32_t *cls;
    int64_t count;
} dd_kept;

size_t dd_kept_bytes(int64_t capacity);
void dd_kept_init(dd_kept *kept, int64_t capacity, void *memory);
void dd_kept_add(dd_kept *kept, const float *box, int32_t cls);
bool dd_kept_suppresses(const dd_kept *kept, const float *box, int32_t cls, float threshold);

/* boxes (n, 4), scores (n), classes (n) or NULL: one class. keep gets the kept indices, best
 * first, at most capacity of them; *count how many. n < 2^32. Fails with DD_EVALUE on a threshold
 * outside [0, 1] and DD_ENOMEM. */
dd_status dd_nms(int64_t n, const float *boxes, const float *scores, const int32_t *classes,
                 float threshold, int64_t capacity, int64_t *keep, int64_t *count);

typedef enum dd_soft_nms_method { DD_SOFT_LINEAR = 0, DD_SOFT_GAUSSIAN } dd_soft_nms_method;

/* Soft-NMS (Bodla et al. 2017): a kept box lowers the scores of the others of its class, by
 * 1 - IoU above the threshold (linear) or by exp(-IoU^2 / sigma) (Gaussian); ends when the best
 * score left is below min_score. kept_scores (capacity): the lowered scores. */
dd_status dd_soft_nms(int64_t n, const float *boxes, const float *scores, const int32_t *classes,
                      dd_soft_nms_method method, float threshold, float sigma, float min_score,
                      int64_t capacity, int64_t *keep, float *kept_scores, int64_t *count);

#endif
