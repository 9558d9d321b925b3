/*
 * A loop over libfabric and nothing else: what any program pays for these operations. It has the
 * device's description (hints, provider) from our link, so that both drive the device alike: the
 * same modes, local and remote access, and pieces of memory.
 */
#include "verbs.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/error.h"
#include "fabric/ofi/internal.h"

#define DEPTH_MAX     64
#define CAPSULE_BYTES 256u
#define REPLY_BYTES   32u
#define LANDING_BYTES (16u << 10)
/* Of a slot: a capsule to send and one to receive, a landing place, the payload. */
#define SLOT_BYTES  (4096u + 2 * LANDING_BYTES)
#define ENTRIES_MAX 32

struct end;

struct slot {
    struct fi_context2 send_context, receive_context;
    struct end *end;
    unsigned index;
    unsigned awaited; /* completions until the next operation */
    uint8_t *out, *in, *landing, *payload;
};

struct end {
    const struct verbs_job *job;
    const struct end *peer;
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fid_eq *eq;
    struct fid_cq *cq;
    struct fid_ep *ep;
    struct fid_mr *mr;
    void *desc;
    uint8_t *memory;
    uint64_t base, key;
    struct slot slots[DEPTH_MAX];
    uint64_t started, finished, goal;
};

static void post_receive(struct end *end, struct slot *slot)
{
    struct iovec iov[2] = {{slot->in, CAPSULE_BYTES}, {slot->landing, LANDING_BYTES}};
    void *desc[2] = {end->desc, end->desc};
    struct fi_msg message = {
        .msg_iov = iov, .desc = desc, .iov_count = 2, .context = &slot->receive_context};
    verbs_check(fi_recvmsg(end->ep, &message, FI_COMPLETION), "fi_recvmsg");
}

static void post_send(struct end *end, struct slot *slot, uint32_t capsule_bytes,
                      uint32_t payload_bytes)
{
    struct iovec iov[2] = {{slot->out, capsule_bytes}, {slot->payload, payload_bytes}};
    void *desc[2] = {end->desc, end->desc};
    struct fi_msg message = {.msg_iov = iov,
                             .desc = desc,
                             .iov_count = payload_bytes > 0 ? 2 : 1,
                             .context = &slot->send_context};
    verbs_check(fi_sendmsg(end->ep, &message, FI_COMPLETION), "fi_sendmsg");
}

static void post_rma(struct end *end, struct slot *slot)
{
    struct iovec iov = {slot->payload, end->job->payload_bytes};
    uint64_t offset = (uint64_t)(slot->payload - end->memory);
    struct fi_rma_iov remote = {end->peer->base + offset, end->job->payload_bytes, end->peer->key};
    struct fi_msg_rma message = {.msg_iov = &iov,
                                 .desc = &end->desc,
                                 .iov_count = 1,
                                 .rma_iov = &remote,
                                 .rma_iov_count = 1,
                                 .context = &slot->send_context};
    verbs_check(end->job->kind == VERBS_READ ? fi_readmsg(end->ep, &message, FI_COMPLETION)
                                             : fi_writemsg(end->ep, &message, FI_COMPLETION),
                "READ or WRITE");
}

static void start(struct end *end, struct slot *slot)
{
    end->started++;
    if (end->job->kind != VERBS_SEND) {
        slot->awaited = 1;
        post_rma(end, slot);
        return;
    }
    slot->awaited = 2;
    memcpy(slot->out, &slot->index, sizeof(slot->index));
    post_send(end, slot, CAPSULE_BYTES, end->job->payload_bytes);
}

static void step(struct end *end, struct slot *slot)
{
    if (--slot->awaited > 0)
        return;
    end->finished++;
    if (end->started < end->goal)
        start(end, slot);
}

static void client_completed(struct end *end, struct slot *slot, bool is_receive)
{
    if (is_receive) {
        unsigned index;
        memcpy(&index, slot->in, sizeof(index));
        post_receive(end, slot);
        slot = &end->slots[index];
    }
    step(end, slot);
}

static void server_completed(struct end *end, struct slot *slot, bool is_receive)
{
    if (!is_receive)
        return;
    memcpy(slot->out, slot->in, sizeof(unsigned));
    post_receive(end, slot);
    post_send(end, slot, REPLY_BYTES, 0);
}

static void poll_end(struct end *end, void (*completed)(struct end *, struct slot *, bool))
{
    struct fi_cq_msg_entry entries[ENTRIES_MAX];
    ssize_t count = fi_cq_read(end->cq, entries, ENTRIES_MAX);
    if (count == -FI_EAGAIN)
        return;
    verbs_check(count < 0 ? count : 0, "fi_cq_read");
    for (ssize_t i = 0; i < count; i++) {
        bool is_receive = (entries[i].flags & FI_RECV) != 0;
        struct slot *slot =
            is_receive ? sl_container_of(entries[i].op_context, struct slot, receive_context)
                       : sl_container_of(entries[i].op_context, struct slot, send_context);
        completed(end, slot, is_receive);
    }
}

static void run(struct end *client, struct end *server, uint64_t count)
{
    client->started = client->finished = 0;
    client->goal = count;
    for (unsigned i = 0; i < client->job->depth && client->started < count; i++)
        start(client, &client->slots[i]);
    while (client->finished < count) {
        poll_end(client, client_completed);
        poll_end(server, server_completed);
    }
}

/* ---- set-up ---- */

static void open_end(struct end *end, const struct ofi_library *library, struct fi_info *info,
                     const struct verbs_job *job)
{
    struct fi_eq_attr eq = {.wait_obj = FI_WAIT_FD};
    struct fi_cq_attr cq = {.format = FI_CQ_FORMAT_MSG, .wait_obj = FI_WAIT_FD, .size = 4096};
    uint64_t access = FI_SEND | FI_RECV | FI_READ | FI_WRITE | FI_REMOTE_READ | FI_REMOTE_WRITE;
    end->job = job;
    end->memory = mmap(NULL, DEPTH_MAX * SLOT_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    verbs_check(end->memory == MAP_FAILED, "mmap");
    verbs_check(library->fabric(info->fabric_attr, &end->fabric, NULL), "fi_fabric");
    verbs_check(fi_domain(end->fabric, info, &end->domain, NULL), "fi_domain");
    verbs_check(fi_eq_open(end->fabric, &eq, &end->eq, NULL), "fi_eq_open");
    verbs_check(fi_cq_open(end->domain, &cq, &end->cq, NULL), "fi_cq_open");
    verbs_check(fi_mr_reg(end->domain, end->memory, DEPTH_MAX * SLOT_BYTES, access, 0, 42, 0,
                          &end->mr, NULL),
                "fi_mr_reg");
    end->desc = fi_mr_desc(end->mr);
    end->key = fi_mr_key(end->mr);
    bool is_virtual = (info->domain_attr->mr_mode & FI_MR_VIRT_ADDR) != 0;
    end->base = is_virtual ? (uint64_t)(uintptr_t)end->memory : 0;
    for (unsigned i = 0; i < DEPTH_MAX; i++) {
        uint8_t *memory = end->memory + i * SLOT_BYTES;
        end->slots[i] = (struct slot){.end = end,
                                      .index = i,
                                      .out = memory,
                                      .in = memory + CAPSULE_BYTES,
                                      .landing = memory + 4096,
                                      .payload = memory + 4096 + LANDING_BYTES};
        memset(end->slots[i].payload, 1, job->payload_bytes);
    }
}

static void open_endpoint(struct end *end, struct fi_info *info)
{
    verbs_check(fi_endpoint(end->domain, info, &end->ep, NULL), "fi_endpoint");
    verbs_check(fi_ep_bind(end->ep, &end->eq->fid, 0), "fi_ep_bind");
    verbs_check(fi_ep_bind(end->ep, &end->cq->fid, FI_TRANSMIT | FI_RECV), "fi_ep_bind");
    verbs_check(fi_enable(end->ep), "fi_enable");
    for (unsigned i = 0; i < end->job->depth; i++)
        post_receive(end, &end->slots[i]);
}

/* True: an event came, which must be of this kind. */
static bool event_came(struct fid_eq *eq, uint32_t wanted, struct fi_eq_cm_entry *entry)
{
    uint32_t event;
    ssize_t length = fi_eq_read(eq, &event, entry, sizeof(*entry), 0);
    if (length == -FI_EAGAIN)
        return false;
    verbs_check(length < (ssize_t)sizeof(*entry) || event != wanted, "an event of the connection");
    return true;
}

/* Every queue is read in turn: libfabric's tcp moves only where it is. */
static void establish(struct end *client, struct end *server, struct fid_eq *listener,
                      const struct ofi_library *library)
{
    struct fi_eq_cm_entry entry;
    unsigned connected = 0;
    while (connected < 2) {
        if (event_came(listener, FI_CONNREQ, &entry)) {
            open_endpoint(server, entry.info);
            verbs_check(fi_accept(server->ep, NULL, 0), "fi_accept");
            library->freeinfo(entry.info);
        }
        connected += event_came(client->eq, FI_CONNECTED, &entry);
        connected += event_came(server->eq, FI_CONNECTED, &entry);
    }
}

static void connect_ends(struct end *client, struct end *server, const struct ofi_library *library,
                         struct fi_info *info)
{
    struct sl_address address;
    struct fi_eq_attr attributes = {.wait_obj = FI_WAIT_FD};
    struct fid_pep *pep;
    struct fid_eq *eq;
    size_t length = sizeof(address.storage);
    struct fi_info *passive = library->dupinfo(info), *active = library->dupinfo(info);
    verbs_check(sl_address_resolve(client->job->address, &address, 1) != 1, client->job->address);
    free(passive->src_addr);
    passive->src_addr = malloc(address.length);
    memcpy(passive->src_addr, &address.storage, address.length);
    passive->src_addrlen = address.length;
    verbs_check(fi_eq_open(server->fabric, &attributes, &eq, NULL), "fi_eq_open");
    verbs_check(fi_passive_ep(server->fabric, passive, &pep, NULL), "fi_passive_ep");
    verbs_check(fi_pep_bind(pep, &eq->fid, 0), "fi_pep_bind");
    verbs_check(fi_listen(pep), "fi_listen");
    verbs_check(fi_getname(&pep->fid, &address.storage, &length), "fi_getname");
    active->dest_addr = malloc(length);
    memcpy(active->dest_addr, &address.storage, length);
    active->dest_addrlen = length;
    open_endpoint(client, active);
    verbs_check(fi_connect(client->ep, &address.storage, NULL, 0), "fi_connect");
    establish(client, server, eq, library);
    library->freeinfo(passive);
    library->freeinfo(active);
    fi_close(&pep->fid);
    fi_close(&eq->fid);
}

static void close_end(struct end *end)
{
    fi_close(&end->ep->fid);
    fi_close(&end->mr->fid);
    fi_close(&end->cq->fid);
    fi_close(&end->eq->fid);
    fi_close(&end->domain->fid);
    fi_close(&end->fabric->fid);
    munmap(end->memory, DEPTH_MAX * SLOT_BYTES);
}

void verbs_bare(const struct verbs_job *job)
{
    static struct end client, server;
    const struct sl_link_ops *link;
    struct fi_info *info;
    char device[SL_ADDRESS_BYTES_MAX], error[1024];
    verbs_check(
        sl_link_resolve_device(job->device, &link, device, sizeof(device), error, sizeof(error)),
        job->device);
    verbs_check(link != &sl_ofi_link_ops, "a device of the ofi link is needed");
    verbs_check(ofi_info_choose(device, &info, NULL, error, sizeof(error)), job->device);
    const struct ofi_library *library = ofi_library(NULL);
    open_end(&client, library, info, job);
    open_end(&server, library, info, job);
    client.peer = &server;
    server.peer = &client;
    connect_ends(&client, &server, library, info);
    run(&client, &server, job->count / 10 + 1);
    verbs_begin();
    run(&client, &server, job->count);
    verbs_end();
    fi_shutdown(client.ep, 0);
    close_end(&client);
    close_end(&server);
    library->freeinfo(info);
}
