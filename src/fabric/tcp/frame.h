/*
 * Frames of the tcp link as bytes: building and checking, without I/O. docs/wire.md, "tcp frames".
 *
 * Everything that is parsed is untrusted. A parser answers 0 or a negative error with a reason for
 * the log; it never asserts, and reads nothing outside of the bytes that it was given
 * (fuzz/tcp_frame_fuzz.c). No state, any thread.
 */
#ifndef SL_FABRIC_TCP_FRAME_H
#define SL_FABRIC_TCP_FRAME_H

#include "core/base.h"
#include "fabric/limits.h"
#include "fabric/link.h"

#define SL_TCP_VERSION        1
#define SL_TCP_PREAMBLE_MAGIC UINT32_C(0x50544c53)
#define SL_TCP_FRAME_MAGIC    UINT32_C(0x46544c53)

/* Header and op area are at least so long. It holds what one request or one answer needs: 32 of
 * header, a WRITE record (24), a SEND record (8) with a request of two remote pieces (144) or any
 * reply. Such a message takes one receive call without its payload. Longer would only pad; shorter,
 * a second call at depth 1. */
#define SL_TCP_HEAD_BYTES   256u
#define SL_TCP_HEADER_BYTES 32u
#define SL_TCP_RECORDS_MAX  64u
#define SL_TCP_RECORD_BYTES 8u
/* 64 SENDs with the longest capsule, the largest record. 17 KiB */
#define SL_TCP_AREA_BYTES_MIN  (SL_TCP_HEAD_BYTES - SL_TCP_HEADER_BYTES)
#define SL_TCP_AREA_BYTES_MAX  (SL_TCP_RECORDS_MAX * (SL_TCP_RECORD_BYTES + SL_CAPSULE_BYTES_MAX))
#define SL_TCP_FRAME_BYTES_MAX (SL_TCP_HEADER_BYTES + SL_TCP_AREA_BYTES_MAX)
/* Payload of a frame: one transfer of the largest size, or many small ones of so much together. */
#define SL_TCP_PAYLOAD_BYTES_MAX SL_TRANSFER_BYTES_MAX
#define SL_TCP_NO_READ           UINT64_MAX

enum sl_tcp_preamble_type {
    SL_TCP_PREAMBLE_REQUEST = 1,
    SL_TCP_PREAMBLE_ACCEPTED = 2,
    SL_TCP_PREAMBLE_REJECTED = 3,
};

enum sl_tcp_reason {
    SL_TCP_REASON_NONE = 0,
    SL_TCP_REASON_KEY = 1,
    SL_TCP_REASON_PROTOCOL = 2,
    SL_TCP_REASON_VERSION = 3,
    SL_TCP_REASON_REFUSED = 4,
    SL_TCP_REASON_BUSY = 5,
};

enum sl_tcp_record_type {
    SL_TCP_SEND = 1,
    SL_TCP_WRITE = 2,
    SL_TCP_READ_REQUEST = 3,
    SL_TCP_READ_RESPONSE = 4,
    SL_TCP_CLOSE = 5,
};

struct sl_tcp_preamble {
    uint32_t magic;
    uint16_t version;
    uint8_t type;
    uint8_t reason;
    uint8_t private_data[SL_LINK_PRIVATE_BYTES];
    uint8_t reserved1[16];
    uint32_t crc;
    uint32_t reserved2;
};
_Static_assert(sizeof(struct sl_tcp_preamble) == 64, "wire.md: preamble");
_Static_assert(offsetof(struct sl_tcp_preamble, private_data) == 8, "wire.md: preamble");
_Static_assert(offsetof(struct sl_tcp_preamble, crc) == 56, "wire.md: preamble");

struct sl_tcp_header {
    uint32_t magic;
    uint16_t record_count;
    uint16_t flags;
    uint32_t area_bytes;
    uint32_t payload_bytes;
    uint64_t sequence;
    uint32_t crc;
    uint32_t reserved;
};
_Static_assert(sizeof(struct sl_tcp_header) == SL_TCP_HEADER_BYTES, "wire.md: frame header");
_Static_assert(offsetof(struct sl_tcp_header, sequence) == 16, "wire.md: frame header");
_Static_assert(offsetof(struct sl_tcp_header, crc) == 24, "wire.md: frame header");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "wire.md: little-endian hosts only");

/* A record as it stands on the wire; `words` by type: address, key, id. */
struct sl_tcp_wire_record {
    uint8_t type;
    uint8_t reason;
    uint16_t capsule_bytes;
    uint32_t length_bytes;
    uint64_t words[3];
};
_Static_assert(sizeof(struct sl_tcp_wire_record) == 32, "wire.md: records");
_Static_assert(offsetof(struct sl_tcp_wire_record, words) == SL_TCP_RECORD_BYTES,
               "wire.md: records");

/* A checked record. What its type does not have is zero. */
struct sl_tcp_record {
    enum sl_tcp_record_type type;
    enum sl_tcp_reason reason;
    uint32_t length_bytes;
    uint32_t capsule_bytes;
    const uint8_t *capsule; /* in the parsed bytes */
    uint64_t address;
    uint64_t key;
    uint64_t id;
};

/* `bytes` of 64. 0, -SL_E_PROTOCOL, -SL_E_VERSION with *why. The type is one of the enum's. */
int sl_tcp_preamble_parse(const void *bytes, struct sl_tcp_preamble *preamble, const char **why);
/* `private_data` may be NULL: zeroes. */
void sl_tcp_preamble_build(struct sl_tcp_preamble *preamble, enum sl_tcp_preamble_type type,
                           enum sl_tcp_reason reason, const uint8_t *private_data);

/* `head` of SL_TCP_HEAD_BYTES, 8-byte aligned. Lengths and counts are in their ranges after 0. The
 * CRC is checked by sl_tcp_frame_parse(). -SL_E_PROTOCOL. */
int sl_tcp_header_parse(const void *head, uint64_t sequence, struct sl_tcp_header *header,
                        const char **why);
/* `frame`: header and header->area_bytes of op area, 8-byte aligned. Fills header->record_count of
 * `records` (SL_TCP_RECORDS_MAX). The payload lengths sum up to header->payload_bytes after 0.
 * -SL_E_PROTOCOL, -SL_E_CHECKSUM. */
int sl_tcp_frame_parse(const void *frame, const struct sl_tcp_header *header,
                       struct sl_tcp_record *records, const char **why);

/* Builds a frame in `bytes` (SL_TCP_FRAME_BYTES_MAX, 8-byte aligned). */
struct sl_tcp_builder {
    uint8_t *bytes;
    uint32_t used_bytes;
    uint32_t record_count;
    uint32_t payload_bytes;
};
void sl_tcp_builder_begin(struct sl_tcp_builder *builder, uint8_t *bytes);
/* Room for one more record with so much payload? The first always fits. */
static inline bool sl_tcp_builder_has_room(const struct sl_tcp_builder *builder,
                                           uint32_t payload_bytes)
{
    return builder->record_count < SL_TCP_RECORDS_MAX &&
           payload_bytes <= SL_TCP_PAYLOAD_BYTES_MAX - builder->payload_bytes;
}
void sl_tcp_builder_add_send(struct sl_tcp_builder *builder, const void *capsule,
                             uint32_t capsule_bytes, uint32_t payload_bytes);
void sl_tcp_builder_add_write(struct sl_tcp_builder *builder, uint64_t address, uint64_t key,
                              uint32_t length_bytes);
void sl_tcp_builder_add_read_request(struct sl_tcp_builder *builder, uint64_t address, uint64_t key,
                                     uint32_t length_bytes, uint64_t id);
void sl_tcp_builder_add_read_response(struct sl_tcp_builder *builder, uint64_t id,
                                      uint32_t length_bytes);
void sl_tcp_builder_add_close(struct sl_tcp_builder *builder, enum sl_tcp_reason reason,
                              uint64_t id);
/* Pads, fills the header in. Answers the bytes of header and op area. */
uint32_t sl_tcp_builder_finish(struct sl_tcp_builder *builder, uint64_t sequence);

/* Unknown errors and reasons map to "protocol". */
enum sl_tcp_reason sl_tcp_reason_from_error(int error);
int sl_tcp_reason_to_error(enum sl_tcp_reason reason);

#endif
