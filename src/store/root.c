/* Finding the newest root and making groups, chunks and slots of it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "store/chunk.h"

static int take_groups(struct sl_store *store, const struct sl_root_header *header,
                       const uint8_t *body)
{
    struct sl_root_parts parts = sl_root_parts(header);
    const uint8_t *state = body + parts.states;
    for (uint32_t i = 0; i < header->group_count; i++) {
        struct sl_root_group in;
        memcpy(&in, body + parts.groups + i * sizeof(in), sizeof(in)); /* header: group */
        struct sl_store_group *group =
            store_group_add(store, in.group, in.boundary_index, in.boundary_term);
        if (group == NULL)
            return -ENOMEM;
        store->state_bytes += sizeof(struct sl_root_group);
        group->deleted = (in.flags & SL_GROUP_DELETED) != 0;
        group->deleted_generation = header->head_generation;
        group->term = in.term;
        group->vote = in.vote;
        /* Even if none was set the index is one that the log may be trimmed to. */
        int error = in.state_index == 0 && in.state_bytes == 0
                        ? 0
                        : sl_store_state_set(group, in.state_index, state, in.state_bytes);
        if (error < 0)
            return error;
        state += sl_align_up(in.state_bytes, 8);
    }
    return 0;
}

static int take_chunks(struct sl_store *store, const struct sl_root_header *header,
                       const uint8_t *body)
{
    const struct sl_root_chunk *chunks = (const void *)body;
    for (uint32_t place = 0; place < header->chunk_count; place++) {
        struct chunk *chunk;
        if (chunks[place].version == 0)
            continue;
        struct sl_store_group *group =
            store->group_hash != NULL ? store_group_lookup(store, chunks[place].group) : NULL;
        if (group == NULL)
            return -SL_E_PROTOCOL;
        int error = chunk_add(group, chunks[place].number, place, &chunk);
        if (error < 0)
            return error;
        store->root_versions[place] = store->next_versions[place] = chunks[place].version;
    }
    return 0;
}

static int take(struct sl_store *store, const struct sl_root_header *header, const uint8_t *body)
{
    struct sl_root_parts parts = sl_root_parts(header);
    int error = take_groups(store, header, body);
    if (error == 0)
        error = take_chunks(store, header, body);
    memcpy(store->slots_root, body + parts.bitmap, parts.groups - parts.bitmap); /* header: bits */
    /* Bits behind the last slot mean nothing. */
    if (header->slot_count % 64 != 0)
        store->slots_root[header->slot_count / 64] &= (UINT64_C(1) << header->slot_count % 64) - 1;
    memcpy(store->slots_used, store->slots_root, /* header: bits */
           (store->slot_count / 64 + 1) * sizeof(uint64_t));
    memcpy(store->slots_next, store->slots_root, /* header: bits */
           (store->slot_count / 64 + 1) * sizeof(uint64_t));
    slots_recount(store);
    store->root_sequence = header->sequence;
    return error;
}

/* What is known of the copies: 0 and 1 are of one root, 2 and 3 of the one before or behind it. */
struct copies {
    uint64_t sequences[SL_ROOT_COPIES]; /* of valid headers */
    unsigned tried, unreadable;         /* a bit each */
};

/* The newest copy with a valid header that was not tried; -ENOENT: none. */
static int next_candidate_co(struct sl_store *store, struct copies *copies,
                             struct sl_root_header *header, unsigned *copy, const char **why)
{
    uint64_t best = 0;
    struct sl_root_header *read = malloc(sizeof(*read));
    uint8_t *block = malloc(SL_BLOCK_BYTES);
    int error = read == NULL || block == NULL ? -ENOMEM : 0;
    for (unsigned i = 0; i < SL_ROOT_COPIES && error != -ENOMEM; i++) {
        if ((copies->tried >> i & 1) != 0)
            continue;
        error = store_read_bytes_co(store->config.disk, store->config.memory,
                                    store->shard->roots_offset + i * store->shard->root_bytes,
                                    block, SL_BLOCK_BYTES);
        if (error < 0) {
            *why = sl_error_text(error);
            copies->unreadable |= 1u << i;
            continue;
        }
        if (sl_root_header_parse(block, store->superblock, store->config.shard, read, why) != 0)
            continue;
        copies->sequences[i] = read->sequence;
        if (read->sequence > best) {
            best = read->sequence;
            *header = *read;
            *copy = i;
        }
    }
    free(read);
    free(block);
    return error == -ENOMEM ? error : best != 0 ? 0 : -ENOENT;
}

/* A copy that cannot be read may be of a newer root than `sequence`, unless the other one of its
 * pair is older: a root counts when both of its copies are written. A torn one is no root; one that
 * is there and cannot be read is what was acknowledged. */
static bool may_be_outdated(const struct copies *copies, uint64_t sequence)
{
    unsigned pair = sequence % 2 == 0 ? 2 : 0; /* the other root's */
    for (unsigned i = pair; i < pair + 2; i++) {
        if (copies->sequences[i] != 0 && copies->sequences[i] < sequence)
            return false;
    }
    return (copies->unreadable >> pair & 3) != 0;
}

static int take_newest(struct sl_store *store, const struct copies *copies,
                       const struct sl_root_header *header, const uint8_t *body, char *error,
                       size_t error_bytes)
{
    if (may_be_outdated(copies, header->sequence)) {
        snprintf(error, error_bytes,
                 "shard %u: root %llu is there, but what may be a newer one cannot be read (EIO): "
                 "try again, and if that does not help restore the disk from its replicas",
                 store->config.shard, (unsigned long long)header->sequence);
        return -EIO;
    }
    snprintf(error, error_bytes, "shard %u: root %llu contradicts itself", store->config.shard,
             (unsigned long long)header->sequence);
    return take(store, header, body);
}

int root_load_co(struct sl_store *store, struct sl_root_header *header, char *error,
                 size_t error_bytes)
{
    const char *why = "no root is there";
    struct copies copies = {0};
    unsigned copy = 0;
    for (;;) {
        int result = next_candidate_co(store, &copies, header, &copy, &why);
        if (result == -ENOENT) {
            snprintf(error, error_bytes,
                     "shard %u has no valid root: %s; nothing can be read without it: restore the "
                     "disk from its replicas",
                     store->config.shard, why);
            return -SL_E_CHECKSUM;
        }
        if (result < 0)
            return result;
        copies.tried |= 1u << copy;
        uint8_t *body = malloc(header->body_bytes + 8);
        if (body == NULL)
            return -ENOMEM;
        result = store_read_bytes_co(store->config.disk, store->config.memory,
                                     store->shard->roots_offset + copy * store->shard->root_bytes +
                                         SL_BLOCK_BYTES,
                                     body, header->body_bytes);
        if (result == 0)
            result = sl_root_body_parse(header, body, &why);
        else {
            why = sl_error_text(result);
            copies.unreadable |= 1u << copy;
        }
        if (result == 0) {
            result = take_newest(store, &copies, header, body, error, error_bytes);
            free(body);
            return result;
        }
        free(body);
    }
}
