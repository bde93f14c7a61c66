/* Channel groups: which channels of which values and parameters must go together when one is
 * pruned.
 *
 * Each value has a list of channel ids, one a channel of its last axis. Ids are elements of a
 * union-find structure; its classes are the groups. Id 0 is the locked class: what can't be pruned
 * (inputs, outputs, whatever passes an operator without rule). An axis of a parameter has such a
 * list as well, and a parameter with several uses unifies them all. */
#ifndef DD_GRAPH_CHANNELS_H
#define DD_GRAPH_CHANNELS_H

#include "graph/graph.h"
#include "ops/channels.h"

/* ---- for pruning --------------------------------------------------------------------------- */

/* Walks a forward graph; `types` as from dd_graph_infer. */
dd_status dd_channels_create(const dd_graph *g, const dd_store *s, const dd_type *types,
                             dd_channel_ids **ids);
void dd_channels_destroy(dd_channel_ids *ids);

/* Group of each channel of a value, or of an entry along an axis, written to `groups` (capacity of
 * the channels); returns how many, 0 where the axis is not pruned. Group 0 is locked. */
int64_t dd_channels_of_value(dd_channel_ids *ids, int value, int *groups);
int64_t dd_channels_of_entry(dd_channel_ids *ids, int entry, int axis, int *groups);

#endif
