/* Control records and the life cycle; control.h has the table. Any thread. */
#include "comch/control.h"

#include <string.h>

#include "core/error.h"

/* Bit s: allowed in state s. */
#define IN(state) (1u << (state))

static const unsigned allowed_states[COMCH_REQUEST_LAST + 1] = {
    [COMCH_QUERY_STORAGE] = IN(COMCH_CONNECTED) | IN(COMCH_QUERIED),
    [COMCH_INIT_STORAGE] = IN(COMCH_QUERIED),
    [COMCH_CREATE_RDMA_CONNECTION] = IN(COMCH_INITIALISED),
    [COMCH_START_STORAGE] = IN(COMCH_INITIALISED) | IN(COMCH_STOPPED),
    [COMCH_STOP_STORAGE] = IN(COMCH_RUNNING),
    [COMCH_SHUTDOWN] =
        IN(COMCH_CONNECTED) | IN(COMCH_QUERIED) | IN(COMCH_INITIALISED) | IN(COMCH_STOPPED),
    [COMCH_REGISTER_MEMORY] = IN(COMCH_INITIALISED) | IN(COMCH_RUNNING) | IN(COMCH_STOPPED),
    [COMCH_UNREGISTER_MEMORY] = IN(COMCH_INITIALISED) | IN(COMCH_RUNNING) | IN(COMCH_STOPPED),
    [COMCH_STATISTICS] = IN(COMCH_CONNECTED) | IN(COMCH_QUERIED) | IN(COMCH_INITIALISED) |
                         IN(COMCH_RUNNING) | IN(COMCH_STOPPED),
};

static const char *const type_names[COMCH_REQUEST_LAST + 1] = {
    [COMCH_QUERY_STORAGE] = "query_storage",
    [COMCH_INIT_STORAGE] = "init_storage",
    [COMCH_CREATE_RDMA_CONNECTION] = "create_rdma_connection",
    [COMCH_START_STORAGE] = "start_storage",
    [COMCH_STOP_STORAGE] = "stop_storage",
    [COMCH_SHUTDOWN] = "shutdown",
    [COMCH_REGISTER_MEMORY] = "register_memory",
    [COMCH_UNREGISTER_MEMORY] = "unregister_memory",
    [COMCH_STATISTICS] = "statistics",
};

const char *comch_type_name(unsigned type)
{
    return type >= 1 && type <= COMCH_REQUEST_LAST ? type_names[type] : "unknown";
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

static unsigned descriptors_of(const struct comch_record *record)
{
    switch (record->header.type) {
    case COMCH_CREATE_RDMA_CONNECTION:
        return record->connection.kind == SL_COMCH_CONNECTION_DATA ? SL_CHANNEL_DESCRIPTORS : 0;
    case COMCH_REGISTER_MEMORY:
        return 1;
    default:
        return 0;
    }
}

static bool body_is_sound(const struct comch_record *record)
{
    switch (record->header.type) {
    case COMCH_QUERY_STORAGE:
    case COMCH_INIT_STORAGE:
        return memchr(record->volume, '\0', sizeof(record->volume)) != NULL;
    case COMCH_CREATE_RDMA_CONNECTION:
        return record->connection.kind == SL_COMCH_CONNECTION_DATA ||
               record->connection.kind == SL_COMCH_CONNECTION_CONTROL;
    case COMCH_REGISTER_MEMORY:
        return record->memory.writable <= 1;
    default:
        return true;
    }
}

int comch_request_check(const struct comch_record *record, size_t length_bytes,
                        unsigned descriptor_count)
{
    if (length_bytes != sizeof(*record) || record->header.magic != COMCH_MAGIC)
        return -SL_E_PROTOCOL;
    if (record->header.version != COMCH_VERSION)
        return -SL_E_VERSION;
    if (record->header.status != 0 ||
        !is_zero(record->header.reserved, sizeof(record->header.reserved)))
        return -SL_E_PROTOCOL;
    if (record->header.type == 0 || record->header.type > COMCH_REQUEST_LAST)
        return -EOPNOTSUPP;
    if (!body_is_sound(record) || descriptor_count != descriptors_of(record))
        return -SL_E_PROTOCOL;
    return 0;
}

int comch_request_allowed(enum comch_state state, unsigned type)
{
    SL_ASSERT(type >= 1 && type <= COMCH_REQUEST_LAST);
    return (allowed_states[type] & IN(state)) != 0 ? 0 : -EBADFD;
}

enum comch_state comch_state_after(enum comch_state state, unsigned type)
{
    switch (type) {
    case COMCH_QUERY_STORAGE:
        return COMCH_QUERIED;
    case COMCH_INIT_STORAGE:
        return COMCH_INITIALISED;
    case COMCH_START_STORAGE:
        return COMCH_RUNNING;
    case COMCH_STOP_STORAGE:
        return COMCH_STOPPED;
    case COMCH_SHUTDOWN:
        return COMCH_ENDED;
    default:
        return state;
    }
}

struct sl_channel_layout comch_queue_layout(uint32_t depth)
{
    uint32_t slots = 2;
    while (slots < 2 * depth)
        slots *= 2;
    return (struct sl_channel_layout){
        .slot_bytes = sizeof(struct sl_io_message),
        .slot_count = slots,
    };
}
