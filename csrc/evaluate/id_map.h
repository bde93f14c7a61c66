/* A map from 64-bit ids to positions: which image has id 397133? Open addressing, no removal. */
#ifndef DD_EVALUATE_ID_MAP_H
#define DD_EVALUATE_ID_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct dd_id_slot {
    int64_t id;
    int64_t index; /* -1: empty */
} dd_id_slot;

typedef struct dd_id_map { /* all zero is an empty map */
    dd_id_slot *slots;
    size_t capacity, count; /* capacity is 0 or a power of two, at most two thirds of it are used */
} dd_id_map;

/* Room for `count` ids without growth. */
dd_status dd_id_map_reserve(dd_id_map *map, size_t count);
/* Adds id -> index (>= 0). If the id is there already, the map stays and *added is false. */
dd_status dd_id_map_add(dd_id_map *map, int64_t id, int64_t index, bool *added);
int64_t dd_id_map_find(const dd_id_map *map, int64_t id); /* -1 if it is not there */
void dd_id_map_free(dd_id_map *map);

/* The place of each of n ids among m ascending ones, -1 where it is not there. In the thread pool;
 * quickest where equal ids stand together, as results of an image do. */
void dd_id_positions(const int64_t *ids, size_t n, const int64_t *sorted, size_t m, int32_t *out);

#endif
