/* Linear probing: with a good hash and a third of the slots free a look-up touches one or two cache
 * lines, and ids are never removed, so there are no tombstones to care for. */
#include "evaluate/id_map.h"

#include <string.h>

#include "base/memory.h"
#include "base/threads.h"

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

/* ---- positions ----------------------------------------------------------------------------- */

#define BLOCK 8192 /* ids of a unit */

#define SPAN 1024 /* ids this close together are looked up in a table */

typedef struct lookup {
    const int64_t *ids, *sorted;
    size_t n, m;
    int32_t *out;
    int32_t table[SPAN]; /* by id - sorted[0]; used where `spanned` */
    bool spanned;
} lookup;

static int32_t place_of(const lookup *l, int64_t id) {
    if (l->spanned) {
        uint64_t at = (uint64_t)id - (uint64_t)l->sorted[0];
        return at < SPAN ? l->table[at] : -1;
    }
    size_t low = 0, n = l->m;
    while (n) { /* the first that is not below id */
        size_t half = n / 2;
        bool below = l->sorted[low + half] < id;
        low = below ? low + half + 1 : low;
        n = below ? n - half - 1 : half;
    }
    return low < l->m && l->sorted[low] == id ? (int32_t)low : -1;
}

static void look_up(void *context, int64_t unit, int thread) {
    const lookup *l = context;
    (void)thread;
    size_t begin = (size_t)unit * BLOCK, end = begin + BLOCK < l->n ? begin + BLOCK : l->n;
    for (size_t i = begin; i < end; i++)
        l->out[i] =
            i > begin && l->ids[i] == l->ids[i - 1] ? l->out[i - 1] : place_of(l, l->ids[i]);
}

void dd_id_positions(const int64_t *ids, size_t n, const int64_t *sorted, size_t m, int32_t *out) {
    lookup l = {.ids = ids, .sorted = sorted, .n = n, .m = m, .out = out};
    l.spanned = m && (uint64_t)sorted[m - 1] - (uint64_t)sorted[0] < SPAN;
    memset(l.table, 0xff, sizeof l.table); /* -1 */
    for (size_t i = m; l.spanned && i-- > 0;)
        l.table[sorted[i] - sorted[0]] = (int32_t)i;
    dd_parallel((int64_t)((n + BLOCK - 1) / BLOCK), look_up, &l);
}
