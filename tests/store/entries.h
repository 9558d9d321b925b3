/* Entries of a group's log, as a layer above the store appends them. */
#ifndef TESTS_STORE_ENTRIES_H
#define TESTS_STORE_ENTRIES_H

#include "world.h"

/* A store in which groups 3 and 4 are new. */
static inline void world_open_groups_co(struct store_world *w, struct sl_store_group **group,
                                        struct sl_store_group **other)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 3, 0, 0), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 4, 0, 0), 0);
    *group = sl_store_group_find(w->store, 3);
    *other = sl_store_group_find(w->store, 4);
}

/* An entry of two blocks (a NOOP: of none) at the end of the log; durable, not applied. */
static inline void world_append_co(struct store_world *w, struct sl_store_group *group,
                                   uint64_t index, uint64_t term, uint8_t type, uint64_t id)
{
    struct sl_iobuf payload;
    uint32_t crcs[2];
    struct sl_store_wait wait;
    payload_make_co(w, &payload, id, 2, 1);
    sl_crc32c_blocks(payload.spans[0].data, 2, crcs);
    struct sl_store_entry entry = {.index = index,
                                   .term = term,
                                   .type = type,
                                   .chunk = 0,
                                   .first_block = 8,
                                   .block_count = 2,
                                   .extra_bytes = 6,
                                   .extra = "extra",
                                   .crcs = crcs};
    if (type == SL_ENTRY_NOOP)
        entry.block_count = 0;
    assert_int_equal(sl_store_prepare_co(group, type, 0, 8, 2), 0);
    sl_store_append(group, &entry, &payload, &wait);
    sl_iobuf_fini(&payload);
    assert_int_equal(sl_store_durable_co(&wait), 0);
}

/* Entries `first` to `last` of term 1, each with blocks of id 10 times its index. */
static inline void world_append_all_co(struct store_world *w, struct sl_store_group *group,
                                       uint64_t first, uint64_t last)
{
    for (uint64_t index = first; index <= last; index++)
        world_append_co(w, group, index, 1, SL_ENTRY_WRITE, 10 * index);
}

#endif
