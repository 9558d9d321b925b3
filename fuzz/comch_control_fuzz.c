/*
 * Goal: no control record, whatever its bytes, length and descriptors, gets past
 * comch_request_check() with a body that the server could stumble over, and no sequence of records
 * leaves the life cycle. Method: the input is a sequence of {descriptors, length low, length high,
 * bytes}; each record is checked and, if sound and allowed, taken as done. What was let through is
 * checked again in other words than control.c's.
 */
#include <stdlib.h>
#include <string.h>

#include "comch/control.h"
#include "core/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void must_be_sound(const struct comch_record *record, size_t length, unsigned descriptors)
{
    unsigned type = record->header.type;
    must(length == 512 && record->header.magic == COMCH_MAGIC && record->header.version == 1);
    must(type >= 1 && type <= 9 && strcmp(comch_type_name(type), "unknown") != 0);
    if (type == COMCH_QUERY_STORAGE || type == COMCH_INIT_STORAGE)
        must(strnlen(record->volume, SL_COMCH_VOLUME_BYTES) < SL_COMCH_VOLUME_BYTES);
    if (type == COMCH_REGISTER_MEMORY)
        must(descriptors == 1);
    else if (type != COMCH_CREATE_RDMA_CONNECTION)
        must(descriptors == 0);
    else if (record->connection.kind == SL_COMCH_CONNECTION_DATA)
        must(descriptors == 3);
    else
        must(record->connection.kind == SL_COMCH_CONNECTION_CONTROL && descriptors == 0);
}

/* The picture in comch.h. */
static void must_be_an_edge(enum comch_state from, enum comch_state to, unsigned type)
{
    must(from != COMCH_ENDED);
    if (from == to)
        return;
    switch (to) {
    case COMCH_QUERIED:
        must(from == COMCH_CONNECTED && type == COMCH_QUERY_STORAGE);
        break;
    case COMCH_INITIALISED:
        must(from == COMCH_QUERIED && type == COMCH_INIT_STORAGE);
        break;
    case COMCH_RUNNING:
        must((from == COMCH_INITIALISED || from == COMCH_STOPPED) && type == COMCH_START_STORAGE);
        break;
    case COMCH_STOPPED:
        must(from == COMCH_RUNNING && type == COMCH_STOP_STORAGE);
        break;
    case COMCH_ENDED:
        must(from != COMCH_RUNNING && type == COMCH_SHUTDOWN);
        break;
    default:
        must(false);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum comch_state state = COMCH_CONNECTED;
    while (size >= 3) {
        struct comch_record record = {.header = {.magic = COMCH_MAGIC, .version = COMCH_VERSION}};
        unsigned descriptors = data[0] % 5;
        /* The usual header unless the input brings its own: the top bit says so. */
        size_t at = (data[0] & 0x80) != 0 ? 0 : offsetof(struct comch_header, type);
        size_t length = sl_min((size_t)(data[1] | data[2] << 8) % 700, sizeof(record));
        data += 3;
        size -= 3;
        size_t given = sl_min(sl_min(size, 128u), sizeof(record) - at);
        memcpy((uint8_t *)&record + at, data, given);
        data += given;
        size -= given;
        int error = comch_request_check(&record, length, descriptors);
        must(error == 0 || error == -SL_E_PROTOCOL || error == -SL_E_VERSION ||
             error == -EOPNOTSUPP);
        if (error < 0)
            continue;
        must_be_sound(&record, length, descriptors);
        if (state == COMCH_ENDED || comch_request_allowed(state, record.header.type) < 0)
            continue;
        enum comch_state next = comch_state_after(state, record.header.type);
        must_be_an_edge(state, next, record.header.type);
        state = next;
    }
    return 0;
}
