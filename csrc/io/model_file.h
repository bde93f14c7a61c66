/* Our model file (.pt): a network, its parameters and what it detects, read in C.
 *
 * The file is torch's (io/torch_file.h): {"state_dict": {name: tensor}, "meta": {...}}, where
 * meta.graph is the network as JSON and meta.entries the roles of its parameters, in order. What a
 * training run keeps beside them ("training") is passed over. */
#ifndef DD_IO_MODEL_FILE_H
#define DD_IO_MODEL_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "detect/anchors.h"
#include "graph/graph.h"
#include "graph/store.h"

typedef struct dd_model {
    dd_graph *graph; /* as it was saved: the training form, unless the net was fused */
    dd_store *store; /* its parameters */
    char *name;      /* of the registry, "dsdet-s"; "" where the file says none */
    char **classes;  /* the names of the n_classes classes; none before a net has met its data */
    int64_t *categories; /* their ids in the data set */
    int n_classes;
    int imgsz; /* side of the letterboxed images it was trained at; 320 where the file says none */
    dd_anchor_rule anchors;
} dd_model;

/* Reads a file; the model is the caller's, for dd_model_destroy(). Fails with DD_EIO where the
 * system refuses, DD_EFORMAT with file and reason (empty, truncated, damaged, holding code, another
 * program's, parts that do not fit each other) and DD_ENOMEM. Never runs anything of the file, and
 * takes no more memory than a small multiple of its length. */
dd_status dd_model_load(const char *path, dd_model **model);

/* The same from memory: data[0..length) is borrowed for the call and has a NUL byte behind it;
 * `name` stands for the file in messages. */
dd_status dd_model_read(const char *data, size_t length, const char *name, dd_model **model);

void dd_model_destroy(dd_model *model); /* NULL is allowed */

#endif
