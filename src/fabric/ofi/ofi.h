/*
 * The ofi link: libfabric, for RDMA cards (provider verbs: InfiniBand, RoCE, iWARP). libfabric's
 * own tcp provider is there to test this code on machines without such a card.
 *
 * What -d may name: "ofi", "ofi:DEVICE", "ofi+PROVIDER", "ofi+PROVIDER:DEVICE"; DEVICE is an RDMA
 * device (mlx5_0, rxe0), a network interface or one of its addresses. Any thread, but what the link
 * table says of reactors.
 */
#ifndef SL_FABRIC_OFI_OFI_H
#define SL_FABRIC_OFI_OFI_H

#include "fabric/link.h"

extern const struct sl_link_ops sl_ofi_link_ops;

#define SL_OFI_NAME_BYTES 64

/* One way to reach a network: a provider on a device with an address. */
struct sl_ofi_device {
    char provider[SL_OFI_NAME_BYTES];  /* "verbs", "tcp" */
    char device[SL_OFI_NAME_BYTES];    /* "rxe0", "mlx5_0"; of tcp: the interface */
    char interface[SL_OFI_NAME_BYTES]; /* that has the address; "" = unknown */
    char host[SL_OFI_NAME_BYTES];      /* its address as --listen takes it, without a port */
    bool up;
    bool atomics;
    bool virtual_addresses; /* peers address our memory by pointer, not by offset */
    bool local_keys;        /* local memory must be registered too */
    uint64_t message_bytes_max;
    uint64_t region_count_max; /* 0 = the provider names none */
    uint32_t local_pieces;
    uint32_t remote_pieces;
    uint32_t send_queue;
    uint32_t receive_queue;
    uint32_t inject_bytes;
};

/* What there is, best first: verbs before tcp; up to `limit`. How many, or -ENODEV: libfabric is
 * not installed. May block while libraries load: at start only. */
int sl_ofi_devices(struct sl_ofi_device *devices, unsigned limit);
/* The device that "ofi" and this name ("", "rxe0", "+tcp", "+verbs:rxe0") mean. 0, or -ENODEV with
 * `error` saying what there is. */
int sl_ofi_device_find(const char *name, struct sl_ofi_device *device, char *error,
                       size_t error_bytes);
/* "1.17", or "" if libfabric cannot be loaded; then `why` (may be NULL) says why. */
const char *sl_ofi_library_version(const char **why);

#endif
