/* Internal to detect/assign*.c: what objects claim, and how conflicts end. */
#ifndef DD_DETECT_CLAIMS_H
#define DD_DETECT_CLAIMS_H

#include <stdbool.h>

#include "detect/assign.h"

typedef struct dd_claim {
    int32_t anchor;
    float rank; /* higher is better: TAL's metric, ATSS' IoU or minus the squared distance */
    float iou;  /* decides between objects */
} dd_claim;

typedef struct dd_claims {
    int64_t objects, capacity;
    dd_claim *list;  /* (objects, capacity), best first */
    int32_t *length; /* (objects) */
    int32_t *owned;  /* (objects): anchors that are the object's after the conflicts */
    uint8_t *forced; /* (objects): its anchor was not won but given */
    float *highest;  /* (A): IoU of the claim that holds the anchor */
} dd_claims;

size_t dd_claims_bytes(int64_t objects, int64_t capacity, int64_t anchors);
void dd_claims_init(dd_claims *claims, int64_t objects, int64_t capacity, int64_t anchors,
                    void *memory);

/* Puts a claim into a best-first list of at most `capacity`; equal ranks keep the lower anchor,
 * given that anchors come in ascending order. */
void dd_claim_insert(dd_claim *list, int32_t *length, int64_t capacity, dd_claim claim);

/* Gives every claimed anchor to its highest claim; out->object starts as all background. */
void dd_claims_resolve(dd_claims *claims, const dd_assignment *out);

/* Gives every object without an anchor one, as assign.h says. */
void dd_claims_rescue(dd_claims *claims, const dd_anchor_index *anchors, const dd_objects *objects,
                      const dd_assignment *out);

/* Whether object m takes part: not an ignore region, and a valid box. */
bool dd_object_counts(const dd_objects *objects, int64_t m);

/* IoU of the box that is predicted at `anchor` with `box`; of the anchor itself without deltas. */
float dd_predicted_iou(const dd_anchor_index *anchors, const dd_predictions *predictions,
                       int64_t anchor, const float *box);

void dd_assign_tal(const dd_assign_options *options, const dd_anchor_index *anchors,
                   const dd_objects *objects, const dd_predictions *predictions, dd_claims *claims);
void dd_assign_atss(const dd_assign_options *options, const dd_anchor_index *anchors,
                    const dd_objects *objects, dd_claims *claims);
void dd_assign_max_iou(const dd_assign_options *options, const dd_anchor_index *anchors,
                       const dd_objects *objects, dd_claims *claims, const dd_assignment *out);

#endif
