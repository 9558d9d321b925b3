/*
 * Messages of the fabric as they stand on the wire: docs/wire.md, "Capsules". Little-endian, no
 * padding; offsets are asserted below. A capsule is a header of 32 bytes and a body by type;
 * `length_bytes` covers both.
 */
#ifndef SL_FABRIC_CAPSULE_H
#define SL_FABRIC_CAPSULE_H

#include "core/base.h"
#include "fabric/limits.h"
#include "fabric/link.h"

#define SL_FABRIC_MAGIC       UINT32_C(0x43494c53) /* "SLIC" */
#define SL_FABRIC_VERSION_MIN 1
#define SL_FABRIC_VERSION_MAX 1

enum sl_capsule_type {
    /* handshake; without credit */
    SL_CAPSULE_HELLO = 1,
    SL_CAPSULE_CHALLENGE = 2,
    SL_CAPSULE_PROOF = 3,
    SL_CAPSULE_WELCOME = 4,
    SL_CAPSULE_REJECT = 5,
    /* without credit */
    SL_CAPSULE_HEARTBEAT = 8,
    SL_CAPSULE_CREDIT = 9,
    SL_CAPSULE_GOODBYE = 10,
    /* requests: cost one credit, answered by a REPLY with the same request_id */
    SL_CAPSULE_IO = 16,
    SL_CAPSULE_QUERY_STORAGE = 17,
    SL_CAPSULE_INIT_STORAGE = 18,
    SL_CAPSULE_START_STORAGE = 19,
    SL_CAPSULE_STOP_STORAGE = 20,
    SL_CAPSULE_SHUTDOWN = 21,
    SL_CAPSULE_STATISTICS = 22,
    SL_CAPSULE_GROUP_IO = 23,    /* I/O on a replicated group, and what concerns its sessions */
    SL_CAPSULE_GROUP_ADMIN = 24, /* create, status, membership */
    SL_CAPSULE_RAFT = 25,        /* between targets */
    /* answers; use the receive that the requester keeps for it */
    SL_CAPSULE_REPLY = 64,
};

struct sl_capsule_header {
    uint8_t type;           /* 0  enum sl_capsule_type */
    uint8_t version;        /* 1  agreed on; SL_FABRIC_VERSION_MIN before */
    uint16_t length_bytes;  /* 2  header and body: 32 … 256 */
    uint32_t payload_bytes; /* 4  that follow in the message, 0 … SL_IN_CAPSULE_BYTES_MAX */
    uint64_t sequence; /* 8  of the connection and direction, from 0: gaps and replays are errors */
    uint32_t request_id; /* 16 the requester's, echoed by REPLY */
    uint16_t status;     /* 20 enum sl_status; REPLY and REJECT */
    uint16_t credits;    /* 22 given back to the receiver of this capsule */
    uint32_t crc;        /* 24 CRC32C of the capsule with this field zero */
    uint32_t reserved;   /* 28 zero */
};
_Static_assert(sizeof(struct sl_capsule_header) == 32, "wire.md: capsule header");
_Static_assert(offsetof(struct sl_capsule_header, crc) == 24, "wire.md: capsule header");

/* Status on the wire; each has one errno (src/fabric/status.c). */
enum sl_status {
    SL_STATUS_OK = 0,
    SL_STATUS_INVALID = 1,      /* EINVAL: malformed or misaligned request */
    SL_STATUS_OUT_OF_RANGE = 2, /* ERANGE: beyond the end of the volume */
    SL_STATUS_NO_SPACE = 3,     /* ENOSPC */
    SL_STATUS_MEDIUM = 4,       /* EIO: the disk failed the operation */
    SL_STATUS_CHECKSUM = 5,     /* SL_E_CHECKSUM */
    SL_STATUS_KEY = 6,          /* SL_E_KEY */
    SL_STATUS_READ_ONLY = 7,    /* EROFS */
    SL_STATUS_NOT_FOUND = 8,    /* ENOENT: no such volume or storage */
    SL_STATUS_STATE = 9,        /* EBADFD: not in this state of the life cycle */
    SL_STATUS_BUSY = 10,        /* EBUSY: more outstanding than agreed, or exclusively held */
    SL_STATUS_MOVED = 11,       /* SL_E_MOVED: `index` names the right reactor */
    SL_STATUS_UNREACHABLE = 12, /* SL_E_UNREACHABLE */
    SL_STATUS_TIMEOUT = 13,     /* ETIMEDOUT */
    SL_STATUS_UNSUPPORTED = 14, /* EOPNOTSUPP */
    SL_STATUS_CLUSTER_KEY = 15, /* SL_E_CLUSTER_KEY */
    SL_STATUS_VERSION = 16,     /* SL_E_VERSION */
    SL_STATUS_PROTOCOL = 17,    /* SL_E_PROTOCOL */
    SL_STATUS_NO_MEMORY = 18,   /* ENOMEM */
    SL_STATUS_CANCELED = 19,    /* ECANCELED: shut down before it ran */
    SL_STATUS_FENCED = 20,      /* SL_E_FENCED: the volume was attached anew by somebody else */
    SL_STATUS_NO_SESSION = 21,  /* SL_E_NO_SESSION: never opened, or closed */
    SL_STATUS_VOIDED = 22,      /* SL_E_VOIDED: this write was given up and will never apply */
    SL_STATUS_EXISTS = 23,      /* EEXIST */
    SL_STATUS_AGAIN = 24,       /* EAGAIN: later, at the same place */
    SL_STATUS_PERMISSION = 25,  /* EPERM: would leave the group without a voter, or the like */
    SL_STATUS_LAST = 26,
};
/* Any errno maps to a status (unknown: MEDIUM); any status to a negative errno (unknown:
 * -SL_E_PROTOCOL). */
enum sl_status sl_status_from_errno(int error);
int sl_status_to_errno(uint16_t status);

enum sl_io_opcode {
    SL_IO_READ = 1,
    SL_IO_WRITE = 2,
    SL_IO_FLUSH = 3,
    SL_IO_DISCARD = 4,
    SL_IO_WRITE_ZEROES = 5,
};

/* The I/O part: 64 bytes, as in DOCA's sample. The same record is used by the fabric (after the
 * header) and in the rings of comch (alone). */
struct sl_io_message {
    uint8_t opcode;      /* 0  enum sl_io_opcode */
    uint8_t flags;       /* 1  zero */
    uint16_t status;     /* 2  answers on comch rings: enum sl_status; requests: zero */
    uint32_t request_id; /* 4  comch: the initiator's slot; fabric: as in the header */
    uint32_t volume; /* 8  comch: handle from init_storage; fabric: storage number of the target */
    uint32_t length_bytes;  /* 12 */
    uint64_t offset_bytes;  /* 16 in the volume, or in the target's storage */
    uint64_t memory_offset; /* 24 comch: of the buffer in the shared memory */
    uint32_t memory_id;     /* 32 comch: which shared memory */
    uint8_t piece_count;    /* 36 fabric: remote pieces that follow */
    uint8_t reserved1[3];   /* 37 zero */
    uint64_t gateway_id;    /* 40 fabric: instance of the sender */
    uint64_t
        write_sequence; /* 48 fabric: for exactly-once, used with replication; zero until then */
    uint64_t trace_id;  /* 56 follows one request through all programs; 0 = not traced */
};
_Static_assert(sizeof(struct sl_io_message) == 64, "wire.md: I/O message");
_Static_assert(offsetof(struct sl_io_message, memory_id) == 32, "wire.md: I/O message");
_Static_assert(offsetof(struct sl_io_message, trace_id) == 56, "wire.md: I/O message");
_Static_assert(sizeof(struct sl_remote_piece) == 24, "wire.md: remote piece");

struct sl_capsule_io {
    struct sl_capsule_header header;
    struct sl_io_message io;
    struct sl_remote_piece pieces[SL_REMOTE_PIECES_MAX];
};
_Static_assert(sizeof(struct sl_capsule_io) == 240, "wire.md: I/O capsule");

enum sl_storage_flag {
    SL_STORAGE_READ_ONLY = 1,
    SL_STORAGE_CHEAP_DISCARD = 2,
    SL_STORAGE_REPLICATED = 4,
};

/* Answer to QUERY_STORAGE and INIT_STORAGE: what a target has. */
struct sl_capsule_storage {
    struct sl_capsule_header header;
    uint64_t capacity_bytes;
    uint32_t block_bytes;
    uint32_t shard_bytes;   /* consecutive shards go to reactors 0, 1, … in turn */
    uint32_t reactor_count; /* connect to each: its index goes in the connection's private data */
    uint32_t transfer_bytes_max;
    uint32_t storage_flags; /* enum sl_storage_flag */
    uint32_t reserved;
    uint8_t storage_id[16]; /* random, made at start (mem) or kept with the file; replicated: the
                               cluster's id */
};
_Static_assert(sizeof(struct sl_capsule_storage) == 80, "wire.md: storage capsule");

/* What only a group can do, behind enum sl_io_opcode. */
enum sl_group_opcode {
    SL_GROUP_SESSION_OPEN = 16,
    SL_GROUP_SESSION_CLOSE = 17,
    SL_GROUP_VOID = 18,   /* the write `sequence` will never apply; answered EXISTS if it has */
    SL_GROUP_ATTACH = 19, /* `volume` has `epoch` from now on; its holder of before is fenced */
};

/* I/O on a group: docs/wire.md, "Group I/O". Offsets are in the group's address space, whose chunks
 * are those of the store; one request never crosses a chunk. */
struct sl_group_message {
    uint8_t opcode;        /* 0  enum sl_io_opcode or sl_group_opcode */
    uint8_t flags;         /* 1  enum sl_group_flag */
    uint16_t unfinished;   /* 2  WRITE and its like, VOID: `sequence` minus the lowest one whose
                                  outcome the gateway does not know: 0 … SL_GROUP_WINDOW - 1 */
    uint32_t group;        /* 4 */
    uint32_t volume;       /* 8  whose epoch is checked; 0 = none (session operations) */
    uint32_t length_bytes; /* 12 */
    uint64_t offset_bytes; /* 16 */
    uint64_t epoch;        /* 24 that the gateway attached the volume with; ATTACH: the new one */
    uint64_t session;      /* 32 random, not 0, one of each (gateway, group) */
    uint64_t sequence;     /* 40 WRITE, DISCARD, WRITE_ZEROES, VOID: from 1; else 0 */
    uint64_t trace_id;     /* 48 */
    uint8_t piece_count;   /* 56 remote pieces that follow */
    uint8_t reserved[7];   /* 57 zero */
};
_Static_assert(sizeof(struct sl_group_message) == 64, "wire.md: group I/O");
_Static_assert(offsetof(struct sl_group_message, trace_id) == 48, "wire.md: group I/O");

enum sl_group_flag {
    SL_GROUP_ANY_REPLICA =
        1, /* READ: a follower may serve it, after asking the leader (read-index) */
};

struct sl_capsule_group_io {
    struct sl_capsule_header header;
    struct sl_group_message io;
    struct sl_remote_piece pieces[SL_REMOTE_PIECES_MAX];
};
_Static_assert(sizeof(struct sl_capsule_group_io) == 240, "wire.md: group I/O");

/* The REPLY to GROUP_IO and GROUP_ADMIN. With MOVED: who leads, as far as is known. */
struct sl_capsule_group_reply {
    struct sl_capsule_header header;
    uint32_t leader_node;    /* 0 = not known */
    uint32_t leader_reactor; /* of that node, or of this one if the group is another reactor's */
    uint64_t term;
    uint64_t epoch;   /* ATTACH, FENCED: the one in force */
    uint64_t replica; /* STATUS: the id of the one that answers; else zero */
};
_Static_assert(sizeof(struct sl_capsule_group_reply) == 64, "wire.md: group reply");

/* Any capsule, for buffers. */
union sl_capsule {
    struct sl_capsule_header header;
    struct sl_capsule_io io;
    struct sl_capsule_storage storage;
    struct sl_capsule_group_io group_io;
    struct sl_capsule_group_reply group_reply;
    uint8_t bytes[SL_CAPSULE_BYTES_MAX];
};
_Static_assert(sizeof(union sl_capsule) == SL_CAPSULE_BYTES_MAX, "wire.md: capsule");

#endif
