/* What op->channels says with: which channels of a node's inputs and outputs are the same ones. See
 * graph/channels.h for what comes of it.
 *
 * Called with all inputs' lists known; it gives every output its list. Inputs and outputs are
 * counted by their place in the node. A channel of an output that got no id is locked. A failure
 * (memory) is kept inside and reported by dd_channels_create(). */
#ifndef DD_OPS_CHANNELS_H
#define DD_OPS_CHANNELS_H

#include "ops/node.h"

int64_t dd_channels_count(const dd_channel_ids *ids, int input);          /* -1: absent */
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

#endif
