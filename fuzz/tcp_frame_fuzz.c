/*
 * Goal: no bytes from the network crash the frame parsers of the tcp link or make them accept a
 * frame that their own builder would not have made. Method: the input is a preamble, or a frame
 * whose CRC is made right (a peer can do that as well), so that the fuzzer gets past it. What
 * parses is built again from its records, and must give the same bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "fabric/tcp/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void rebuild(const struct sl_tcp_record *records, unsigned count, uint64_t sequence,
                    const uint8_t *frame, uint32_t frame_bytes)
{
    static _Alignas(8) uint8_t bytes[SL_TCP_FRAME_BYTES_MAX];
    struct sl_tcp_builder builder;
    sl_tcp_builder_begin(&builder, bytes);
    for (unsigned i = 0; i < count; i++) {
        const struct sl_tcp_record *record = &records[i];
        switch (record->type) {
        case SL_TCP_SEND:
            sl_tcp_builder_add_send(&builder, record->capsule, record->capsule_bytes,
                                    record->length_bytes);
            break;
        case SL_TCP_WRITE:
            sl_tcp_builder_add_write(&builder, record->address, record->key, record->length_bytes);
            break;
        case SL_TCP_READ_REQUEST:
            sl_tcp_builder_add_read_request(&builder, record->address, record->key,
                                            record->length_bytes, record->id);
            break;
        case SL_TCP_READ_RESPONSE:
            sl_tcp_builder_add_read_response(&builder, record->id, record->length_bytes);
            break;
        case SL_TCP_CLOSE:
            sl_tcp_builder_add_close(&builder, record->reason, record->id);
            break;
        }
    }
    if (sl_tcp_builder_finish(&builder, sequence) != frame_bytes ||
        memcmp(bytes, frame, frame_bytes) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sl_tcp_record records[SL_TCP_RECORDS_MAX];
    struct sl_tcp_preamble preamble;
    struct sl_tcp_header header;
    const char *why = NULL;
    if (size == sizeof(preamble))
        (void)sl_tcp_preamble_parse(data, &preamble, &why);
    if (size < SL_TCP_HEAD_BYTES || size > SL_TCP_FRAME_BYTES_MAX)
        return 0;
    /* Just as long as it is: ASan sees a read behind it. */
    uint8_t *frame = malloc(size);
    if (frame == NULL)
        return 0;
    memcpy(frame, data, size);
    memcpy(&header, frame, sizeof(header));
    uint64_t sequence = header.sequence;
    if (sl_tcp_header_parse(frame, sequence, &header, &why) != 0 ||
        size < SL_TCP_HEADER_BYTES + header.area_bytes)
        goto out;
    header.crc = 0;
    memcpy(frame, &header, sizeof(header));
    header.crc = sl_crc32c(0, frame, SL_TCP_HEADER_BYTES + header.area_bytes);
    memcpy(frame, &header, sizeof(header));
    if (sl_tcp_frame_parse(frame, &header, records, &why) == 0)
        rebuild(records, header.record_count, sequence, frame,
                SL_TCP_HEADER_BYTES + header.area_bytes);
    else if (why == NULL)
        abort();
out:
    free(frame);
    return 0;
}
