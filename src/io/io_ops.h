/* What an implementation of seam 1 fills in: src/io/uring and sim/. io.c forwards and checks. */
#ifndef SL_IO_IO_OPS_H
#define SL_IO_IO_OPS_H

#include "io/io.h"

struct sl_io_ops {
    int (*disk_open)(struct sl_io *io, const char *path, const struct sl_disk_options *options,
                     struct sl_disk_info *info, struct sl_disk **disk);
    void (*disk_close)(struct sl_disk *disk);
    int (*disk_measure)(struct sl_disk *disk, uint64_t *capacity_bytes);
    void (*disk_submit)(struct sl_disk_op *op);

    int (*listener_open)(struct sl_io *io, const char *address, char *bound,
                         struct sl_listener **listener);
    int (*listener_accept_co)(struct sl_listener *listener, char *peer, struct sl_stream **stream);
    void (*listener_shutdown)(struct sl_listener *listener);
    void (*listener_close)(struct sl_listener *listener);

    int (*stream_connect_co)(struct sl_io *io, const char *address, uint64_t deadline_ns,
                             struct sl_stream **stream);
    int64_t (*stream_receive_co)(struct sl_stream *stream, const struct iovec *pieces,
                                 unsigned piece_count);
    int (*stream_send_co)(struct sl_stream *stream, const struct iovec *pieces,
                          unsigned piece_count, bool zero_copy);
    void (*stream_shutdown)(struct sl_stream *stream);
    void (*stream_close)(struct sl_stream *stream);
    int (*stream_detach)(struct sl_stream *stream);
    int (*stream_adopt)(struct sl_io *io, int handle, struct sl_stream **stream);

    int (*descriptor_wait_co)(struct sl_io *io, int descriptor, short events, uint64_t deadline_ns);
    void (*descriptor_cancel)(struct sl_io *io, int descriptor);
    int (*doorbell_create)(struct sl_io *io, int eventfd, void (*ring)(void *argument),
                           void *argument, struct sl_doorbell **doorbell);
    void (*doorbell_destroy)(struct sl_doorbell *doorbell);
    int (*watch_create)(struct sl_io *io, int descriptor, void (*ready)(void *argument),
                        void *argument, struct sl_watch **watch);
    void (*watch_arm)(struct sl_watch *watch);
    void (*watch_destroy)(struct sl_watch *watch);

    int (*register_memory)(struct sl_io *io, struct sl_memory *memory);
    void (*destroy)(struct sl_io *io);
};

/* Each implementation's objects begin with these. */
struct sl_io {
    const struct sl_io_ops *ops;
    struct sl_reactor_engine engine;
    struct sl_reactor *reactor;
};
struct sl_disk {
    struct sl_io *io;
    struct sl_disk_info info;
};
struct sl_listener {
    struct sl_io *io;
};
struct sl_stream {
    struct sl_io *io;
};
struct sl_doorbell {
    struct sl_io *io;
};
struct sl_watch {
    struct sl_io *io;
};

#endif
