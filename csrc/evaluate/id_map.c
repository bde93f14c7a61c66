/* Linear probing: with a good hash and a third of the slots free a look-up touches one or two cache
 * lines, and ids are never removed, so there are no tombstones to care for. */
#include "evaluate/id_map.h"

#include "base/memory.h"

/* The finalizer of splitmix64 (Steele et al. 2014): ids in a row spread over the table, and so do
 * ids that differ in their high bits only. */
static size_t slot_of(int64_t id, size_t capacity) {
    uint64_t x = (uint64_t)id;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (size_t)(x ^ (x >> 31)) & (capacity - 1);
}

/* The slot that holds the id, or the empty one where it would go. */
static dd_id_slot *find_slot(dd_id_slot *slots, size_t capacity, int64_t id) {
    size_t i = slot_of(id, capacity);
    while (slots[i].index >= 0 && slots[i].id != id)
        i = (i + 1) & (capacity - 1);
    return &slots[i];
}

/* Moves everything into a table of `capacity` slots; on failure the old one stays as it is. */
static dd_status grow(dd_id_map *map, size_t capacity) {
    dd_id_slot *slots = NULL;
    DD_TRY(dd_alloc_array(capacity, sizeof *slots, &slots));
    for (size_t i = 0; i < capacity; i++)
        slots[i].index = -1;
    for (size_t i = 0; i < map->capacity; i++)
        if (map->slots[i].index >= 0)
            *find_slot(slots, capacity, map->slots[i].id) = map->slots[i];
    dd_free(map->slots);
    map->slots = slots;
    map->capacity = capacity;
    return DD_OK;
}

dd_status dd_id_map_reserve(dd_id_map *map, size_t count) {
    size_t capacity = 64;
    while (capacity / 3 * 2 < count)
        DD_TRY(dd_size_mul(capacity, 2, "id map", &capacity));
    return capacity > map->capacity ? grow(map, capacity) : DD_OK;
}

dd_status dd_id_map_add(dd_id_map *map, int64_t id, int64_t index, bool *added) {
    DD_TRY(dd_id_map_reserve(map, map->count + 1));
    dd_id_slot *slot = find_slot(map->slots, map->capacity, id);
    *added = slot->index < 0;
    if (*added) {
        *slot = (dd_id_slot){id, index};
        map->count++;
    }
    return DD_OK;
}

int64_t dd_id_map_find(const dd_id_map *map, int64_t id) {
    return map->count ? find_slot(map->slots, map->capacity, id)->index : -1;
}

void dd_id_map_free(dd_id_map *map) {
    dd_free(map->slots);
    *map = (dd_id_map){0};
}
