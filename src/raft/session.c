/*
 * Sessions, duplicate decisions and attach epochs (session.h). Sessions and volumes lie sorted by
 * their ids: found by halving, saved in one order.
 */
#include "raft/session.h"
#include "core/crc32c.h"
#include "core/error.h"
#include "raft/rule.h"

#include <string.h>

enum { WORDS = SL_SESSION_WINDOW / 64 };

/* Bit i is number low + i. */
struct session {
    uint64_t id;
    uint64_t low;
    uint64_t decided[WORDS];
    uint64_t voided[WORDS];
};

struct volume {
    uint64_t id;
    uint64_t epoch;
};

struct sl_session_table {
    struct sl_index index;
    uint32_t session_count, sessions_max, volume_count, volumes_max;
    struct session *sessions;
    struct volume *volumes;
};

/* The saved form: little-endian, as docs/replication.md has it. */
struct saved_header {
    char magic[8]; /* "SLSESS\0\1" */
    uint64_t index;
    uint32_t session_count, volume_count;
    uint32_t reserved;
    uint32_t crc; /* CRC32C of all, with 0 here */
};
_Static_assert(sizeof(struct saved_header) == 32, "docs/replication.md");
_Static_assert(sizeof(struct session) == 80, "docs/replication.md");
_Static_assert(sizeof(struct volume) == 16, "docs/replication.md");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the saved form is the memory's");

static const char magic[8] = {'S', 'L', 'S', 'E', 'S', 'S', 0, 1};

size_t sl_session_bytes(unsigned sessions_max, unsigned volumes_max)
{
    return sizeof(struct sl_session_table) + sessions_max * sizeof(struct session) +
           volumes_max * sizeof(struct volume);
}

struct sl_session_table *sl_session_init(void *memory, unsigned sessions_max, unsigned volumes_max)
{
    struct sl_session_table *table = memory;
    *table = (struct sl_session_table){.sessions_max = sessions_max, .volumes_max = volumes_max};
    table->sessions = (struct session *)(table + 1);
    table->volumes = (struct volume *)(table->sessions + sessions_max);
    return table;
}

/* The slot of `id`, or where it would be put. */
static unsigned session_slot(const struct sl_session_table *table, uint64_t id)
{
    unsigned low = 0, high = table->session_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (table->sessions[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct session *find_session(const struct sl_session_table *table, uint64_t id)
{
    unsigned slot = session_slot(table, id);
    return slot < table->session_count && table->sessions[slot].id == id ? &table->sessions[slot]
                                                                         : NULL;
}

static unsigned volume_slot(const struct sl_session_table *table, uint64_t id)
{
    unsigned low = 0, high = table->volume_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (table->volumes[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool has_volume(const struct sl_session_table *table, unsigned slot, uint64_t id)
{
    return slot < table->volume_count && table->volumes[slot].id == id;
}

static bool bit(const uint64_t *words, uint64_t at)
{
    return (words[at / 64] >> (at % 64) & 1) != 0;
}

/* Moves the windows up by `by` numbers. */
static void shift(uint64_t *words, uint64_t by)
{
    for (uint64_t i = 0; i < WORDS; i++) {
        uint64_t from = i + by / 64;
        uint64_t low = from < WORDS ? words[from] : 0,
                 high = from + 1 < WORDS ? words[from + 1] : 0;
        words[i] = by % 64 == 0 ? low : low >> (by % 64) | high << (64 - by % 64);
    }
}

/* What is to be said of a numbered command when the lowest unfinished number is `low`. */
static enum sl_verdict judge(const struct sl_session_table *table, const struct session *session,
                             const struct sl_command *command)
{
    uint64_t low = sl_max(session->low, command->lowest);
    if (command->sequence < low)
        return SL_VERDICT_STALE;
    if (command->sequence - low >= SL_SESSION_WINDOW)
        return SL_VERDICT_BEYOND;
    uint64_t at = command->sequence - session->low;
    if (at < SL_SESSION_WINDOW && bit(session->voided, at))
        return SL_VERDICT_VOIDED;
    if (at < SL_SESSION_WINDOW && SL_RAFT_RULE(DUPLICATE) && bit(session->decided, at))
        return SL_VERDICT_DUPLICATE;
    if (command->kind == SL_COMMAND_WRITE && SL_RAFT_RULE(EPOCH)) {
        unsigned slot = volume_slot(table, command->volume);
        if (!has_volume(table, slot, command->volume) ||
            table->volumes[slot].epoch != command->epoch)
            return SL_VERDICT_FENCED;
    }
    return SL_VERDICT_APPLY;
}

enum sl_verdict sl_session_preview(const struct sl_session_table *table,
                                   const struct sl_command *command)
{
    struct session *session = find_session(table, command->session);
    unsigned slot;
    switch (command->kind) {
    case SL_COMMAND_OPEN:
        if (command->session == 0)
            return SL_VERDICT_INVALID;
        if (session != NULL)
            return SL_VERDICT_DUPLICATE;
        return table->session_count == table->sessions_max ? SL_VERDICT_FULL : SL_VERDICT_APPLY;
    case SL_COMMAND_CLOSE:
        return session == NULL ? SL_VERDICT_NO_SESSION : SL_VERDICT_APPLY;
    case SL_COMMAND_WRITE:
    case SL_COMMAND_VOID:
        if (session == NULL)
            return SL_VERDICT_NO_SESSION;
        if (command->sequence == 0 || command->lowest > command->sequence)
            return SL_VERDICT_INVALID;
        return judge(table, session, command);
    case SL_COMMAND_ATTACH:
        slot = volume_slot(table, command->volume);
        if (command->epoch == 0)
            return SL_VERDICT_INVALID;
        if (!has_volume(table, slot, command->volume))
            return table->volume_count == table->volumes_max ? SL_VERDICT_FULL : SL_VERDICT_APPLY;
        if (command->epoch == table->volumes[slot].epoch)
            return SL_VERDICT_DUPLICATE;
        return command->epoch > table->volumes[slot].epoch ? SL_VERDICT_APPLY : SL_VERDICT_FENCED;
    default:
        return SL_VERDICT_INVALID;
    }
}

static void open_session(struct sl_session_table *table, uint64_t id)
{
    unsigned slot = session_slot(table, id);
    memmove(&table->sessions[slot + 1], &table->sessions[slot],
            (table->session_count - slot) * sizeof(table->sessions[0]));
    table->session_count++;
    table->sessions[slot] = (struct session){.id = id, .low = 1};
}

static void close_session(struct sl_session_table *table, uint64_t id)
{
    unsigned slot = session_slot(table, id);
    table->session_count--;
    memmove(&table->sessions[slot], &table->sessions[slot + 1],
            (table->session_count - slot) * sizeof(table->sessions[0]));
}

static void attach(struct sl_session_table *table, uint64_t volume, uint64_t epoch)
{
    unsigned slot = volume_slot(table, volume);
    if (!has_volume(table, slot, volume)) {
        memmove(&table->volumes[slot + 1], &table->volumes[slot],
                (table->volume_count - slot) * sizeof(table->volumes[0]));
        table->volume_count++;
        table->volumes[slot].id = volume;
    }
    table->volumes[slot].epoch = epoch;
}

/* The client's lowest number advances even if this very write is refused: it is a fact. */
static void advance(struct session *session, uint64_t lowest)
{
    if (lowest <= session->low)
        return;
    shift(session->decided, lowest - session->low);
    shift(session->voided, lowest - session->low);
    session->low = lowest;
}

enum sl_verdict sl_session_apply(struct sl_session_table *table, struct sl_index index,
                                 const struct sl_command *command)
{
    SL_ASSERT(index.value == table->index.value + 1);
    table->index = index;
    if (command == NULL)
        return SL_VERDICT_APPLY;
    enum sl_verdict verdict = sl_session_preview(table, command);
    struct session *session = find_session(table, command->session);
    bool numbered = command->kind == SL_COMMAND_WRITE || command->kind == SL_COMMAND_VOID;
    if (numbered && session != NULL && verdict != SL_VERDICT_INVALID)
        advance(session, command->lowest);
    if (verdict != SL_VERDICT_APPLY)
        return verdict;
    if (numbered) {
        uint64_t at = command->sequence - session->low;
        if (command->kind == SL_COMMAND_WRITE || SL_RAFT_RULE(VOID))
            session->decided[at / 64] |= UINT64_C(1) << (at % 64);
        if (command->kind == SL_COMMAND_VOID && SL_RAFT_RULE(VOID))
            session->voided[at / 64] |= UINT64_C(1) << (at % 64);
    } else if (command->kind == SL_COMMAND_OPEN) {
        open_session(table, command->session);
    } else if (command->kind == SL_COMMAND_CLOSE) {
        close_session(table, command->session);
    } else {
        attach(table, command->volume, command->epoch);
    }
    return verdict;
}

uint64_t sl_session_epoch(const struct sl_session_table *table, uint64_t volume)
{
    unsigned slot = volume_slot(table, volume);
    return has_volume(table, slot, volume) ? table->volumes[slot].epoch : 0;
}

unsigned sl_session_count(const struct sl_session_table *table)
{
    return table->session_count;
}

uint64_t sl_session_id_at(const struct sl_session_table *table, unsigned i)
{
    return table->sessions[i].id;
}

struct sl_index sl_session_index(const struct sl_session_table *table)
{
    return table->index;
}

static uint64_t fold(uint64_t digest, const void *words, size_t bytes)
{
    for (size_t i = 0; i < bytes / 8; i++) {
        uint64_t word;
        memcpy(&word, (const char *)words + i * 8, 8);
        digest = (digest ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        digest ^= digest >> 29;
    }
    return digest;
}

uint64_t sl_session_digest(const struct sl_session_table *table)
{
    uint64_t digest = fold(table->index.value + 1, table->sessions,
                           table->session_count * sizeof(table->sessions[0]));
    return fold(digest, table->volumes, table->volume_count * sizeof(table->volumes[0]));
}

static size_t saved_bytes(uint64_t sessions, uint64_t volumes)
{
    return sizeof(struct saved_header) + sessions * sizeof(struct session) +
           volumes * sizeof(struct volume);
}

size_t sl_session_save(const struct sl_session_table *table, void *bytes, size_t size)
{
    size_t needed = saved_bytes(table->session_count, table->volume_count);
    if (size < needed)
        return needed;
    struct saved_header header = {.index = table->index.value,
                                  .session_count = table->session_count,
                                  .volume_count = table->volume_count};
    memcpy(header.magic, magic, sizeof(magic));
    char *at = bytes;
    size_t of_sessions = table->session_count * sizeof(struct session);
    memcpy(at, &header, sizeof(header));
    memcpy(at + sizeof(header), table->sessions, of_sessions);
    memcpy(at + sizeof(header) + of_sessions, table->volumes,
           table->volume_count * sizeof(struct volume));
    header.crc = sl_crc32c(0, bytes, needed);
    memcpy(at, &header, sizeof(header));
    return needed;
}

/* Sorted, ids not 0, no bit below what it may be. */
static bool is_plausible(const struct session *sessions, unsigned count,
                         const struct volume *volumes, unsigned volume_count)
{
    for (unsigned i = 0; i < count; i++) {
        if (sessions[i].id <= (i == 0 ? 0 : sessions[i - 1].id) || sessions[i].low == 0)
            return false;
        for (unsigned word = 0; word < WORDS; word++) {
            if ((sessions[i].voided[word] & ~sessions[i].decided[word]) != 0)
                return false;
        }
    }
    for (unsigned i = 0; i < volume_count; i++) {
        if ((i > 0 && volumes[i].id <= volumes[i - 1].id) || volumes[i].epoch == 0)
            return false;
    }
    return true;
}

int sl_session_load(struct sl_session_table *table, const void *bytes, size_t size)
{
    struct saved_header header;
    if (size < sizeof(header))
        return -EINVAL;
    memcpy(&header, bytes, sizeof(header));
    if (memcmp(header.magic, magic, sizeof(magic) - 1) != 0)
        return -EINVAL;
    if (header.magic[7] != magic[7])
        return -SL_E_VERSION;
    if (size != saved_bytes(header.session_count, header.volume_count) || header.reserved != 0)
        return -EINVAL;
    uint32_t crc = header.crc;
    header.crc = 0;
    uint32_t sum = sl_crc32c(sl_crc32c(0, &header, sizeof(header)),
                             (const char *)bytes + sizeof(header), size - sizeof(header));
    if (sum != crc)
        return -SL_E_CHECKSUM;
    if (header.session_count > table->sessions_max || header.volume_count > table->volumes_max)
        return -ENOSPC;
    const struct session *sessions = (const void *)((const char *)bytes + sizeof(header));
    const struct volume *volumes = (const void *)(sessions + header.session_count);
    if (!is_plausible(sessions, header.session_count, volumes, header.volume_count))
        return -EINVAL;
    table->index = sl_index_of(header.index);
    table->session_count = header.session_count;
    table->volume_count = header.volume_count;
    memcpy(table->sessions, sessions, header.session_count * sizeof(*sessions));
    memcpy(table->volumes, volumes, header.volume_count * sizeof(*volumes));
    return 0;
}
