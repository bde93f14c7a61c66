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

/* ---- for op->channels
 * ------------------------------------------------------------------------------ Called with all
 * inputs' lists known; it gives every output its list. Inputs and outputs are counted by their
 * place in the node. A channel of an output that got no id is locked. A failure (memory) is kept
 * inside and reported by dd_channels_create. */

int64_t dd_channels_count(const dd_channel_ids *ids, int input); /* -1: absent */
int64_t dd_channels_axis(const dd_channel_ids *ids, int input, int axis); /* its size; -1: absent */
/* The output gets n fresh channels (convolution). */
void dd_channels_fresh(dd_channel_ids *ids, int output, int64_t n);
/* The output gets n channels that dd_channels_take() fills (concat, split, shuffle). */
void dd_channels_size(dd_channel_ids *ids, int output, int64_t n);
void dd_channels_take(dd_channel_ids *ids, int output, int64_t channel, int input, int64_t from);
/* The output has the input's channels (depthwise, unary, pooling). */
void dd_channels_keep(dd_channel_ids *ids, int output, int input);
/* Channel k of both inputs go together (add); an input of one channel is broadcast and keeps out.
 */
void dd_channels_unify(dd_channel_ids *ids, int input_a, int input_b);
/* The parameter at `input` has the channels of an output or of another input along `axis`. */
void dd_channels_axis_output(dd_channel_ids *ids, int input, int axis, int output);
void dd_channels_axis_input(dd_channel_ids *ids, int input, int axis, int other);
void dd_channels_lock(dd_channel_ids *ids, int input);

/* ---- for pruning ----------------------------------------------------------------------------- */

/* Walks a forward graph; `types` as from dd_graph_infer. */
dd_status dd_channels_create(const dd_graph *g, const dd_store *s, const dd_type *types,
                             dd_channel_ids **ids);
void dd_channels_destroy(dd_channel_ids *ids);

/* Group of each channel of a value, or of an entry along an axis, written to `groups` (capacity of
 * the channels); returns how many, 0 where the axis is not pruned. Group 0 is locked. */
int64_t dd_channels_of_value(dd_channel_ids *ids, int value, int *groups);
int64_t dd_channels_of_entry(dd_channel_ids *ids, int entry, int axis, int *groups);

#endif
