/* The graph as JSON, as the checkpoint keeps it:
 *
 *     {"format": "deepseek_det.graph", "version": 1,
 *      "inputs": [{"name": "images", "dtype": "u8", "shape": [-1, -1, -1, 3]}],
 *      "entries": ["stem.weight"],
 *      "nodes": [{"op": "conv", "version": 1, "name": "stem", "in": [0, 1, -1], "out": 1,
 *                 "attributes": {"stride": [2, 2], "groups": 1}}],
 *      "outputs": [{"name": "y", "value": 2}]}
 *
 * Values are numbered in this order: inputs, entries, outputs of the nodes. Every attribute is
 * written, so that an initial value may change in a later version without changing old graphs; an
 * attribute that is missing gets its initial value. Infinite numbers are the strings "inf" and
 * "-inf". The sections stand in this order, and "op" is a node's first key: the reader builds the
 * graph as it goes and keeps no copy of the text. */
#ifndef DD_GRAPH_GRAPH_JSON_H
#define DD_GRAPH_GRAPH_JSON_H

#define DD_GRAPH_FORMAT "deepseek_det.graph"
#define DD_GRAPH_VERSION 1

#endif
