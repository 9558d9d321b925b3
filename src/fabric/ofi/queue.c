/*
 * Completion queues and slots. Data is completion-polled every turn; before a sleep fi_trywait()
 * says whether anything came, and the queue's descriptor ends the sleep (FI_WAIT_FD).
 *
 * A queue has a fixed number of entries, and one that overflows is dead: each connection reserves
 * what it can fill, and another queue is made when the newest has no room. Owner: the domain's
 * reactor.
 */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/ofi/internal.h"

#define SLOTS_A_SLAB 128u

struct slab {
    struct sl_list node;
    struct ofi_slot slots[SLOTS_A_SLAB];
};

/* ---- slots ---- */

struct ofi_slot *ofi_slot_get(struct ofi_domain *domain)
{
    if (sl_list_is_empty(&domain->free_slots)) {
        struct slab *slab = calloc(1, sizeof(*slab));
        if (slab == NULL)
            return NULL;
        sl_list_append(&domain->slabs, &slab->node);
        for (unsigned i = 0; i < SLOTS_A_SLAB; i++) {
            slab->slots[i].domain = domain;
            sl_list_append(&domain->free_slots, &slab->slots[i].node);
        }
    }
    return sl_list_entry(sl_list_pop(&domain->free_slots), struct ofi_slot, node);
}

void ofi_slot_put(struct ofi_domain *domain, struct ofi_slot *slot)
{
    slot->op = NULL;
    slot->connection = NULL;
    sl_list_prepend(&domain->free_slots, &slot->node);
}

/* ---- queues ---- */

static void queue_is_ready(void *argument)
{
    /* Waking the reactor is all: the poller reads the queue. */
}

static struct ofi_queue *queue_open(struct ofi_domain *domain)
{
    struct ofi_queue *queue = calloc(1, sizeof(*queue));
    if (queue == NULL)
        return NULL;
    queue->domain = domain;
    struct fi_cq_attr attributes = {.format = FI_CQ_FORMAT_MSG, .wait_obj = FI_WAIT_FD};
    int descriptor = -1;
    int error = -FI_EINVAL;
    /* There is no attribute that tells how many a device takes. */
    for (uint32_t entries = OFI_QUEUE_ENTRIES; error != 0 && entries >= OFI_QUEUE_ENTRIES_LEAST;
         entries /= 2) {
        attributes.size = queue->entries = entries;
        error = fi_cq_open(domain->domain, &attributes, &queue->cq, queue);
    }
    if (error == 0)
        error = fi_control(&queue->cq->fid, FI_GETWAIT, &descriptor);
    if (error == 0)
        error =
            sl_watch_create(domain->config.io, descriptor, queue_is_ready, queue, &queue->watch);
    if (error != 0) {
        sl_log_error("ofi", "no completion queue of %u entries on %s: %s", queue->entries,
                     domain->info->domain_attr->name, sl_error_name(ofi_error(error)));
        if (queue->cq != NULL)
            fi_close(&queue->cq->fid);
        free(queue);
        return NULL;
    }
    sl_list_append(&domain->queues, &queue->node);
    return queue;
}

int ofi_queues_open(struct ofi_domain *domain)
{
    sl_list_init(&domain->free_slots);
    sl_list_init(&domain->slabs);
    return queue_open(domain) != NULL ? 0 : -ENOMEM;
}

void ofi_queues_close(struct ofi_domain *domain)
{
    struct sl_list *node;
    while ((node = sl_list_pop(&domain->queues)) != NULL) {
        struct ofi_queue *queue = sl_list_entry(node, struct ofi_queue, node);
        SL_ASSERT(queue->reserved == 0);
        sl_watch_destroy(queue->watch);
        fi_close(&queue->cq->fid);
        free(queue);
    }
    while ((node = sl_list_pop(&domain->slabs)) != NULL)
        free(sl_list_entry(node, struct slab, node));
}

struct ofi_queue *ofi_queue_reserve(struct ofi_domain *domain)
{
    uint32_t share = domain->queue_share;
    struct ofi_queue *found = NULL;
    sl_list_for_each(node, &domain->queues)
    {
        struct ofi_queue *queue = sl_list_entry(node, struct ofi_queue, node);
        if (found == NULL && queue->reserved + share <= queue->entries)
            found = queue;
    }
    if (found == NULL)
        found = queue_open(domain);
    if (found != NULL)
        found->reserved += share;
    return found;
}

void ofi_queue_release(struct ofi_queue *queue)
{
    if (queue != NULL)
        queue->reserved -= queue->domain->queue_share;
}

/* verbs says by its own status (enum ibv_wc_status) that the peer refused the key; tcp closes the
 * connection without a word. */
static int status_of_error(const struct ofi_domain *domain, const struct fi_cq_err_entry *entry)
{
    enum { WC_REMOTE_INVALID_REQUEST = 9, WC_REMOTE_ACCESS = 10, WC_RETRY_EXCEEDED = 12 };
    if (domain->is_verbs &&
        (entry->prov_errno == WC_REMOTE_ACCESS || entry->prov_errno == WC_REMOTE_INVALID_REQUEST))
        return -SL_E_KEY;
    if (domain->is_verbs && entry->prov_errno == WC_RETRY_EXCEEDED)
        return -ETIMEDOUT;
    return -ECONNRESET;
}

/* True: an entry was taken. */
static bool read_error(struct ofi_queue *queue)
{
    struct fi_cq_err_entry entry = {0};
    if (fi_cq_readerr(queue->cq, &entry, 0) < 1 || entry.op_context == NULL)
        return false;
    struct ofi_slot *slot = entry.op_context;
    sl_log_debug("ofi", "%s: completion with error %d (%s), provider's %d, of opcode %d",
                 slot->connection != NULL ? slot->connection->peer : "a closed connection",
                 entry.err, queue->domain->library->strerror(entry.err), entry.prov_errno,
                 slot->op != NULL ? (int)slot->op->opcode : -1);
    ofi_complete(slot, status_of_error(queue->domain, &entry), 0);
    return true;
}

unsigned ofi_queue_poll(struct ofi_queue *queue)
{
    struct fi_cq_msg_entry entries[OFI_COMPLETIONS_A_READ];
    unsigned count = 0;
    /* Bounded, so that others get their turn. */
    for (unsigned round = 0; round < 8; round++) {
        ssize_t taken = fi_cq_read(queue->cq, entries, OFI_COMPLETIONS_A_READ);
        if (taken == -FI_EAVAIL) {
            if (!read_error(queue))
                break;
            count++;
            continue;
        }
        if (taken <= 0)
            break;
        for (ssize_t i = 0; i < taken; i++)
            ofi_complete(entries[i].op_context, 0, entries[i].len);
        count += (unsigned)taken;
        if (taken < (ssize_t)OFI_COMPLETIONS_A_READ)
            break;
    }
    return count;
}
