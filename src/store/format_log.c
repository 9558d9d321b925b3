/* Batches and records of the log. docs/disk-format.md, "Log". */
#include "store/format_log.h"

#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"

/* ---- building ---- */

/* While a block is built its header holds the counts; the rest comes with sl_batch_seal(). */
static struct sl_batch_header counts(const void *block)
{
    struct sl_batch_header header;
    memcpy(&header, block, sizeof(header)); /* header: batch */
    return header;
}

void sl_batch_begin(void *block)
{
    memset(block, 0, SL_BLOCK_BYTES);
}

static uint32_t record_bytes(const struct sl_record *record)
{
    switch (record->head.kind) {
    case SL_RECORD_ENTRY:
        return sl_record_entry_bytes(record->head.type, record->block_count, record->extra_bytes);
    case SL_RECORD_TERM_VOTE:
        return sizeof(struct sl_record_vote);
    default:
        return sizeof(struct sl_record_head);
    }
}

static void put_entry(uint8_t *to, const struct sl_record *record)
{
    struct sl_record_entry entry = {record->head, record->first_block, record->block_count,
                                    record->payload_first, record->extra_bytes};
    memcpy(to, &entry, sizeof(entry)); /* header: record */
    to += sizeof(entry);
    if (sl_entry_has_payload(record->head.type)) {
        memcpy(to, record->crcs, record->block_count * 4u); /* header: checksums */
        to += record->block_count * 4u;
    }
    if (record->extra_bytes > 0)
        memcpy(to, record->extra, record->extra_bytes); /* header: of the layer above */
}

bool sl_batch_add(void *block, struct sl_record *record)
{
    struct sl_batch_header header = counts(block);
    uint32_t bytes = record_bytes(record);
    bool has_payload =
        record->head.kind == SL_RECORD_ENTRY && sl_entry_has_payload(record->head.type);
    if (header.record_bytes + bytes > SL_BATCH_RECORDS_BYTES)
        return false;
    if (has_payload && header.payload_blocks + record->block_count > UINT16_MAX)
        return false;
    uint8_t *to = (uint8_t *)block + sizeof(header) + header.record_bytes;
    record->head.bytes = (uint16_t)bytes;
    record->payload_first = has_payload ? (uint16_t)header.payload_blocks : 0;
    if (record->head.kind == SL_RECORD_ENTRY) {
        put_entry(to, record);
    } else if (record->head.kind == SL_RECORD_TERM_VOTE) {
        struct sl_record_vote vote = {record->head, record->vote};
        memcpy(to, &vote, sizeof(vote)); /* header: record */
    } else {
        memcpy(to, &record->head, sizeof(record->head)); /* header: record */
    }
    header.record_bytes += bytes;
    header.record_count++;
    header.payload_blocks += has_payload ? record->block_count : 0;
    memcpy(block, &header, sizeof(header)); /* header: batch */
    return true;
}

static uint32_t batch_crc(const void *block)
{
    size_t from = offsetof(struct sl_batch_header, salt);
    return sl_crc32c(0, (const uint8_t *)block + from, SL_BLOCK_BYTES - from);
}

void sl_batch_seal(void *block, const struct sl_batch_header *header)
{
    struct sl_batch_header now = counts(block);
    struct sl_batch_header sealed = *header;
    sealed.magic = SL_BATCH_MAGIC;
    sealed.record_count = now.record_count;
    sealed.record_bytes = now.record_bytes;
    sealed.payload_blocks = now.payload_blocks;
    memcpy(block, &sealed, sizeof(sealed)); /* header: batch */
    sealed.crc = batch_crc(block);
    memcpy(block, &sealed, sizeof(sealed)); /* header: batch */
}

/* ---- parsing ---- */

static void take_record(const uint8_t *at, struct sl_record *record)
{
    *record = (struct sl_record){0};
    memcpy(&record->head, at, sizeof(record->head)); /* header: record */
    if (record->head.kind == SL_RECORD_ENTRY) {
        struct sl_record_entry entry;
        memcpy(&entry, at, sizeof(entry)); /* header: record */
        bool has_payload = sl_entry_has_payload(record->head.type);
        record->first_block = entry.first_block;
        record->block_count = entry.block_count;
        record->payload_first = entry.payload_first;
        record->extra_bytes = entry.extra_bytes;
        record->crcs = has_payload ? at + sizeof(entry) : NULL;
        record->extra = at + sizeof(entry) + (has_payload ? entry.block_count * 4u : 0);
    } else if (record->head.kind == SL_RECORD_TERM_VOTE) {
        struct sl_record_vote vote;
        memcpy(&vote, at, sizeof(vote)); /* header: record */
        record->vote = vote.vote;
    }
}

bool sl_batch_next(const void *block, uint32_t *offset, struct sl_record *record)
{
    struct sl_batch_header header = counts(block);
    if (*offset >= header.record_bytes)
        return false;
    take_record((const uint8_t *)block + sizeof(header) + *offset, record);
    *offset += record->head.bytes;
    return true;
}

bool sl_record_payload_matches(const struct sl_record *record, const uint8_t *payload)
{
    const uint8_t *block = payload + (uint64_t)record->payload_first * SL_BLOCK_BYTES;
    for (unsigned k = 0; record->crcs != NULL && k < record->block_count; k++) {
        uint32_t crc;
        memcpy(&crc, record->crcs + 4 * k, sizeof(crc)); /* header: checksum */
        if (sl_crc32c(0, block + k * SL_BLOCK_BYTES, SL_BLOCK_BYTES) != crc)
            return false;
    }
    return true;
}

/* `left` bytes of records at `at`, at least a head: what is wrong with the first, or NULL. */
static const char *check_size(const uint8_t *at, uint32_t left)
{
    struct sl_record_head head;
    memcpy(&head, at, sizeof(head)); /* header: record */
    if (head.bytes < sizeof(head) || head.bytes > left || head.bytes % 8 != 0)
        return "a record of an impossible length";
    if (head.group == 0)
        return "a record of group 0";
    switch (head.kind) {
    case SL_RECORD_ENTRY: {
        struct sl_record_entry entry;
        if (head.bytes < sizeof(entry))
            return "an entry's record is too short";
        memcpy(&entry, at, sizeof(entry)); /* header: record */
        if (head.type > SL_ENTRY_OPAQUE || entry.extra_bytes > SL_ENTRY_EXTRA_MAX ||
            (sl_entry_has_payload(head.type) && entry.block_count > SL_ENTRY_BLOCKS_MAX) ||
            head.bytes != sl_record_entry_bytes(head.type, entry.block_count, entry.extra_bytes))
            return "an entry's record has an impossible length or type";
        return NULL;
    }
    case SL_RECORD_TERM_VOTE:
        return head.bytes == sizeof(struct sl_record_vote) ? NULL : "a vote's record is misshapen";
    case SL_RECORD_TRUNCATE:
    case SL_RECORD_GROUP_CREATE:
    case SL_RECORD_GROUP_DELETE:
    case SL_RECORD_APPLIED:
        return head.bytes == sizeof(head) ? NULL : "a record is misshapen";
    default:
        return "a record of an unknown kind";
    }
}

static const char *check_entry(const struct sl_record *record, uint32_t *payload_blocks)
{
    bool in_chunk = record->head.type == SL_ENTRY_WRITE || record->head.type == SL_ENTRY_ZERO;
    if (record->head.index == 0)
        return "an entry with index 0";
    if (record->head.type == SL_ENTRY_NOOP && record->block_count != 0)
        return "an entry without data names blocks";
    if (in_chunk && (record->block_count == 0 ||
                     record->first_block + (uint32_t)record->block_count > SL_CHUNK_BLOCKS))
        return "an entry's blocks lie outside of its chunk";
    if (!sl_entry_has_payload(record->head.type))
        return NULL;
    if (record->payload_first != *payload_blocks)
        return "the payload of two entries overlaps, or has holes";
    *payload_blocks += record->block_count;
    return NULL;
}

static const char *check_records(const void *block, const struct sl_batch_header *header)
{
    uint32_t offset = 0, payload_blocks = 0, count = 0;
    if (header->record_bytes > SL_BATCH_RECORDS_BYTES || header->record_bytes % 8 != 0)
        return "more records than fit into a block";
    while (offset < header->record_bytes) {
        const uint8_t *at = (const uint8_t *)block + sizeof(*header) + offset;
        uint32_t left = header->record_bytes - offset;
        const char *why =
            left < sizeof(struct sl_record_head) ? "half a record" : check_size(at, left);
        struct sl_record record;
        if (why == NULL) {
            sl_batch_next(block, &offset, &record);
            count++;
            why =
                record.head.kind == SL_RECORD_ENTRY ? check_entry(&record, &payload_blocks) : NULL;
        }
        if (why != NULL)
            return why;
    }
    if (count != header->record_count)
        return "not as many records as it says";
    return payload_blocks == header->payload_blocks ? NULL : "payload that belongs to no entry";
}

int sl_batch_parse(const void *block, const struct sl_batch_place *place,
                   struct sl_batch_header *header, const char **why)
{
    const struct sl_superblock *superblock = place->superblock;
    *header = counts(block);
    *why = "no batch begins here";
    if (header->magic != SL_BATCH_MAGIC || header->salt != superblock->salt)
        return -ESTALE;
    *why = "the checksum of the batch's header is wrong";
    if (header->crc != batch_crc(block))
        return -SL_E_CHECKSUM;
    *why = "a batch of another disk, shard, generation or place";
    if (memcmp(header->disk_id, superblock->disk_id, sizeof(header->disk_id)) != 0 ||
        header->shard != place->shard || header->generation != place->generation ||
        header->position != place->position)
        return -ESTALE;
    *why = NULL;
    if (header->sequence == 0 || header->durable_sequence >= header->sequence)
        *why = "an impossible sequence number";
    else if ((uint64_t)header->position + 1 + header->payload_blocks >
             superblock->segment_bytes / SL_BLOCK_BYTES)
        *why = "the batch is longer than its segment";
    else
        *why = check_records(block, header);
    return *why == NULL ? 0 : -SL_E_PROTOCOL;
}

/* ---- a record by itself ---- */

uint32_t sl_record_encode(void *to, uint32_t room, struct sl_record *record)
{
    uint32_t bytes =
        sl_record_entry_bytes(record->head.type, record->block_count, record->extra_bytes);
    if (bytes > room)
        return 0;
    record->head.kind = SL_RECORD_ENTRY;
    record->head.bytes = (uint16_t)bytes;
    record->payload_first = 0;
    memset(to, 0, bytes);
    put_entry(to, record);
    return bytes;
}

const char *sl_record_decode(const void *at, uint32_t left, struct sl_record *record)
{
    if (left < sizeof(struct sl_record_head))
        return "half a record";
    const char *why = check_size(at, left);
    if (why != NULL)
        return why;
    take_record(at, record);
    if (record->head.kind != SL_RECORD_ENTRY)
        return "a record that is no entry's";
    uint32_t payload_blocks = record->payload_first;
    return check_entry(record, &payload_blocks);
}
