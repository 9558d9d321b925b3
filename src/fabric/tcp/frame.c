/*
 * Building and checking of frames: frame.h. Invariant: sl_tcp_frame_parse() answers 0 only for
 * bytes that the builder could have made.
 */
#include "fabric/tcp/frame.h"

#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"

static int refuse(const char **why, int error, const char *text)
{
    *why = text;
    return error;
}

static bool is_zero(const uint8_t *bytes, size_t length_bytes)
{
    uint8_t any = 0;
    for (size_t i = 0; i < length_bytes; i++)
        any |= bytes[i];
    return any == 0;
}

static uint32_t preamble_crc(const struct sl_tcp_preamble *preamble)
{
    struct sl_tcp_preamble copy = *preamble;
    copy.crc = 0;
    return sl_crc32c(0, &copy, sizeof(copy));
}

int sl_tcp_preamble_parse(const void *bytes, struct sl_tcp_preamble *preamble, const char **why)
{
    memcpy(preamble, bytes, sizeof(*preamble)); /* header: preamble */
    if (preamble->magic != SL_TCP_PREAMBLE_MAGIC)
        return refuse(why, -SL_E_PROTOCOL, "does not start with our magic number");
    if (preamble->version != SL_TCP_VERSION)
        return refuse(why, -SL_E_VERSION, "another version of the tcp link");
    if (preamble->crc != preamble_crc(preamble))
        return refuse(why, -SL_E_PROTOCOL, "wrong checksum of the preamble");
    if (preamble->type < SL_TCP_PREAMBLE_REQUEST || preamble->type > SL_TCP_PREAMBLE_REJECTED)
        return refuse(why, -SL_E_PROTOCOL, "unknown type of preamble");
    if (!is_zero(preamble->reserved1, sizeof(preamble->reserved1)) || preamble->reserved2 != 0)
        return refuse(why, -SL_E_PROTOCOL, "reserved bytes of the preamble are not zero");
    return 0;
}

void sl_tcp_preamble_build(struct sl_tcp_preamble *preamble, enum sl_tcp_preamble_type type,
                           enum sl_tcp_reason reason, const uint8_t *private_data)
{
    *preamble = (struct sl_tcp_preamble){
        .magic = SL_TCP_PREAMBLE_MAGIC,
        .version = SL_TCP_VERSION,
        .type = (uint8_t)type,
        .reason = (uint8_t)reason,
    };
    if (private_data != NULL)
        memcpy(preamble->private_data, private_data, SL_LINK_PRIVATE_BYTES); /* header: preamble */
    preamble->crc = preamble_crc(preamble);
}

int sl_tcp_header_parse(const void *head, uint64_t sequence, struct sl_tcp_header *header,
                        const char **why)
{
    memcpy(header, head, sizeof(*header)); /* header: frame header */
    if (header->magic != SL_TCP_FRAME_MAGIC)
        return refuse(why, -SL_E_PROTOCOL, "a frame does not start with its magic number");
    if (header->record_count == 0 || header->record_count > SL_TCP_RECORDS_MAX)
        return refuse(why, -SL_E_PROTOCOL, "a frame has no record, or more than 64");
    if (header->flags != 0 || header->reserved != 0)
        return refuse(why, -SL_E_PROTOCOL, "reserved bytes of a frame header are not zero");
    if (header->area_bytes < SL_TCP_AREA_BYTES_MIN || header->area_bytes > SL_TCP_AREA_BYTES_MAX ||
        !sl_is_aligned(header->area_bytes, 8))
        return refuse(why, -SL_E_PROTOCOL, "the length of an op area is out of range");
    if (header->payload_bytes > SL_TCP_PAYLOAD_BYTES_MAX)
        return refuse(why, -SL_E_PROTOCOL, "a frame announces more than 1 MiB of payload");
    if (header->sequence != sequence)
        return refuse(why, -SL_E_PROTOCOL, "a frame is out of sequence");
    return 0;
}

/* Checks one record of at most `left_bytes`. Answers its length, or negative. */
static int record_parse(const uint8_t *bytes, uint32_t left_bytes, struct sl_tcp_record *record,
                        const char **why)
{
    /* Only the words that the type has are looked at. */
    const struct sl_tcp_wire_record *wire = (const void *)bytes;
    if (left_bytes < SL_TCP_RECORD_BYTES)
        return refuse(why, -SL_E_PROTOCOL, "a record passes the end of its op area");
    *record = (struct sl_tcp_record){
        .type = wire->type, .reason = wire->reason, .length_bytes = wire->length_bytes};
    uint32_t words = 0;
    switch (wire->type) {
    case SL_TCP_SEND:
        words = (uint32_t)sl_align_up(wire->capsule_bytes, 8) / 8;
        break;
    case SL_TCP_WRITE:
        words = 2;
        break;
    case SL_TCP_READ_REQUEST:
        words = 3;
        break;
    case SL_TCP_READ_RESPONSE:
    case SL_TCP_CLOSE:
        words = 1;
        break;
    default:
        return refuse(why, -SL_E_PROTOCOL, "unknown type of record");
    }
    uint32_t record_bytes = SL_TCP_RECORD_BYTES + words * 8;
    if (record_bytes > left_bytes)
        return refuse(why, -SL_E_PROTOCOL, "a record passes the end of its op area");
    if (wire->length_bytes > SL_TRANSFER_BYTES_MAX)
        return refuse(why, -SL_E_PROTOCOL, "a record announces more than 1 MiB");
    if ((wire->type != SL_TCP_CLOSE && wire->reason != 0) ||
        (wire->type != SL_TCP_SEND && wire->capsule_bytes != 0) ||
        (wire->type == SL_TCP_CLOSE && wire->length_bytes != 0))
        return refuse(why, -SL_E_PROTOCOL,
                      "a field that its record type does not have is not zero");
    switch (wire->type) {
    case SL_TCP_SEND:
        if (wire->capsule_bytes > SL_CAPSULE_BYTES_MAX)
            return refuse(why, -SL_E_PROTOCOL, "a capsule is longer than 256 bytes");
        record->capsule = bytes + SL_TCP_RECORD_BYTES;
        record->capsule_bytes = wire->capsule_bytes;
        if (!is_zero(record->capsule + wire->capsule_bytes, words * 8 - wire->capsule_bytes))
            return refuse(why, -SL_E_PROTOCOL, "padding behind a capsule is not zero");
        break;
    case SL_TCP_READ_REQUEST:
        record->id = wire->words[2];
        /* fall through */
    case SL_TCP_WRITE:
        record->address = wire->words[0];
        record->key = wire->words[1];
        break;
    default:
        record->id = wire->words[0];
        break;
    }
    return (int)record_bytes;
}

static uint32_t frame_crc(const void *frame, const struct sl_tcp_header *header)
{
    struct sl_tcp_header copy = *header;
    copy.crc = 0;
    uint32_t crc = sl_crc32c(0, &copy, sizeof(copy));
    return sl_crc32c(crc, (const uint8_t *)frame + sizeof(copy), header->area_bytes);
}

int sl_tcp_frame_parse(const void *frame, const struct sl_tcp_header *header,
                       struct sl_tcp_record *records, const char **why)
{
    if (frame_crc(frame, header) != header->crc)
        return refuse(why, -SL_E_CHECKSUM, "wrong checksum of a frame");
    const uint8_t *area = (const uint8_t *)frame + SL_TCP_HEADER_BYTES;
    uint32_t offset_bytes = 0;
    uint64_t payload_bytes = 0;
    for (unsigned i = 0; i < header->record_count; i++) {
        int length =
            record_parse(area + offset_bytes, header->area_bytes - offset_bytes, &records[i], why);
        if (length < 0)
            return length;
        offset_bytes += (uint32_t)length;
        if (records[i].type != SL_TCP_READ_REQUEST)
            payload_bytes += records[i].length_bytes;
    }
    if (payload_bytes != header->payload_bytes)
        return refuse(why, -SL_E_PROTOCOL, "payload of a frame and of its records differ");
    if (sl_max(offset_bytes, SL_TCP_AREA_BYTES_MIN) != header->area_bytes ||
        !is_zero(area + offset_bytes, header->area_bytes - offset_bytes))
        return refuse(why, -SL_E_PROTOCOL, "bytes behind the last record of a frame");
    return 0;
}

void sl_tcp_builder_begin(struct sl_tcp_builder *builder, uint8_t *bytes)
{
    *builder = (struct sl_tcp_builder){.bytes = bytes, .used_bytes = SL_TCP_HEADER_BYTES};
}

/* Appends the first 8 bytes and `words` empty ones. */
static struct sl_tcp_wire_record *append(struct sl_tcp_builder *builder,
                                         enum sl_tcp_record_type type, uint32_t words,
                                         uint32_t length_bytes)
{
    SL_ASSERT(builder->record_count < SL_TCP_RECORDS_MAX);
    struct sl_tcp_wire_record *wire = (void *)(builder->bytes + builder->used_bytes);
    wire->type = (uint8_t)type;
    wire->reason = 0;
    wire->capsule_bytes = 0;
    wire->length_bytes = length_bytes;
    builder->used_bytes += SL_TCP_RECORD_BYTES + words * 8;
    builder->record_count++;
    if (type != SL_TCP_READ_REQUEST)
        builder->payload_bytes += length_bytes;
    return wire;
}

void sl_tcp_builder_add_send(struct sl_tcp_builder *builder, const void *capsule,
                             uint32_t capsule_bytes, uint32_t payload_bytes)
{
    SL_ASSERT(capsule_bytes <= SL_CAPSULE_BYTES_MAX);
    uint32_t words = (uint32_t)sl_align_up(capsule_bytes, 8) / 8;
    struct sl_tcp_wire_record *wire = append(builder, SL_TCP_SEND, words, payload_bytes);
    wire->capsule_bytes = (uint16_t)capsule_bytes;
    uint8_t *to = (uint8_t *)wire + SL_TCP_RECORD_BYTES;
    if (capsule_bytes != 0)
        memcpy(to, capsule, capsule_bytes); /* header: capsule */
    memset(to + capsule_bytes, 0, words * 8 - capsule_bytes);
}

void sl_tcp_builder_add_write(struct sl_tcp_builder *builder, uint64_t address, uint64_t key,
                              uint32_t length_bytes)
{
    struct sl_tcp_wire_record *wire = append(builder, SL_TCP_WRITE, 2, length_bytes);
    wire->words[0] = address;
    wire->words[1] = key;
}

void sl_tcp_builder_add_read_request(struct sl_tcp_builder *builder, uint64_t address, uint64_t key,
                                     uint32_t length_bytes, uint64_t id)
{
    struct sl_tcp_wire_record *wire = append(builder, SL_TCP_READ_REQUEST, 3, length_bytes);
    wire->words[0] = address;
    wire->words[1] = key;
    wire->words[2] = id;
}

void sl_tcp_builder_add_read_response(struct sl_tcp_builder *builder, uint64_t id,
                                      uint32_t length_bytes)
{
    append(builder, SL_TCP_READ_RESPONSE, 1, length_bytes)->words[0] = id;
}

void sl_tcp_builder_add_close(struct sl_tcp_builder *builder, enum sl_tcp_reason reason,
                              uint64_t id)
{
    struct sl_tcp_wire_record *wire = append(builder, SL_TCP_CLOSE, 1, 0);
    wire->reason = (uint8_t)reason;
    wire->words[0] = id;
}

uint32_t sl_tcp_builder_finish(struct sl_tcp_builder *builder, uint64_t sequence)
{
    if (builder->used_bytes < SL_TCP_HEAD_BYTES) {
        memset(builder->bytes + builder->used_bytes, 0, SL_TCP_HEAD_BYTES - builder->used_bytes);
        builder->used_bytes = SL_TCP_HEAD_BYTES;
    }
    struct sl_tcp_header header = {
        .magic = SL_TCP_FRAME_MAGIC,
        .record_count = (uint16_t)builder->record_count,
        .area_bytes = builder->used_bytes - SL_TCP_HEADER_BYTES,
        .payload_bytes = builder->payload_bytes,
        .sequence = sequence,
    };
    header.crc = frame_crc(builder->bytes, &header);
    memcpy(builder->bytes, &header, sizeof(header)); /* header: frame header */
    return builder->used_bytes;
}

enum sl_tcp_reason sl_tcp_reason_from_error(int error)
{
    switch (error < 0 ? -error : error) {
    case SL_E_KEY:
        return SL_TCP_REASON_KEY;
    case SL_E_VERSION:
        return SL_TCP_REASON_VERSION;
    case ECONNREFUSED:
        return SL_TCP_REASON_REFUSED;
    case EBUSY:
        return SL_TCP_REASON_BUSY;
    default:
        return SL_TCP_REASON_PROTOCOL;
    }
}

int sl_tcp_reason_to_error(enum sl_tcp_reason reason)
{
    switch (reason) {
    case SL_TCP_REASON_KEY:
        return -SL_E_KEY;
    case SL_TCP_REASON_VERSION:
        return -SL_E_VERSION;
    case SL_TCP_REASON_REFUSED:
        return -ECONNREFUSED;
    case SL_TCP_REASON_BUSY:
        return -EBUSY;
    default:
        return -SL_E_PROTOCOL;
    }
}
