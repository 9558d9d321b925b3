/*
 * Memory across the shm link, both ways: windows (the peer's regions, mapped here at first use) and
 * announcements of our own regions with their revocation. Owner: the domain's reactor.
 */
#include "fabric/shm/shm.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/log.h"

_Thread_local bool shm_window_mapping;

/* ---- windows: the peer's memory ---- */

static struct sl_list *bucket_of(struct shm_connection *connection, uint64_t key)
{
    return &connection->windows[key % SHM_BUCKETS]; /* keys are random */
}

static struct shm_window *window_find(struct shm_connection *connection, uint64_t key)
{
    sl_list_for_each(node, bucket_of(connection, key))
    {
        struct shm_window *window = sl_list_entry(node, struct shm_window, node);
        if (window->key == key)
            return window;
    }
    return NULL;
}

static void window_free(struct shm_connection *connection, struct shm_window *window)
{
    sl_list_remove(&window->node);
    if (window->memfd >= 0)
        close(window->memfd);
    connection->window_count--;
    free(window);
}

int shm_window_add(struct shm_connection *connection, const struct shm_control *control, int memfd)
{
    struct shm_window *window = NULL;
    int error = -SL_E_PROTOCOL;
    unsigned known = SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE;
    if (control->key != 0 && control->length_bytes != 0 && (control->access & ~known) == 0 &&
        connection->window_count < SHM_WINDOWS_MAX &&
        window_find(connection, control->key) == NULL) {
        window = malloc(sizeof(*window));
        error = window == NULL ? -ENOMEM : 0;
    }
    if (error < 0) {
        close(memfd);
        return error;
    }
    *window = (struct shm_window){
        .key = control->key,
        .offset_bytes = control->offset_bytes,
        .length_bytes = control->length_bytes,
        .access = control->access,
        .memfd = memfd,
    };
    sl_list_append(bucket_of(connection, window->key), &window->node);
    connection->window_count++;
    return 0;
}

/* Maps it, and keeps the descriptor for another try if that fails for want of something. */
static int window_map(struct shm_connection *connection, struct shm_window *window)
{
    struct shm_domain *domain = connection->domain;
    int memfd = fcntl(window->memfd, F_DUPFD_CLOEXEC, 0);
    if (memfd < 0)
        return -EAGAIN;
    shm_window_mapping = true;
    int error =
        sl_region_map_foreign(sl_memory_regions(domain->config.memory), memfd, window->offset_bytes,
                              (size_t)window->length_bytes,
                              (window->access & SL_ACCESS_REMOTE_WRITE) != 0, &window->region);
    shm_window_mapping = false;
    if (error == 0) {
        close(window->memfd);
        window->memfd = -1;
        return 0;
    }
    window->region = NULL;
    sl_log_warn("shm", "%s: memory of %llu bytes that the peer announced cannot be mapped: %s",
                connection->path, (unsigned long long)window->length_bytes, sl_error_name(error));
    return error == -ENOMEM || error == -EMFILE ? -EAGAIN : -SL_E_KEY;
}

int shm_window_resolve(struct shm_connection *connection, const struct sl_remote_piece *piece,
                       unsigned access, struct sl_span *span)
{
    struct shm_window *window = window_find(connection, piece->key);
    if (window == NULL || (window->access & access) != access ||
        piece->address > window->length_bytes ||
        piece->length_bytes > window->length_bytes - piece->address)
        return -SL_E_KEY;
    if (window->region == NULL) {
        int error = window_map(connection, window);
        if (error < 0)
            return error;
    }
    if (window->region->damaged)
        return -EIO;
    *span = (struct sl_span){window->region->base + piece->address, piece->length_bytes,
                             window->region};
    return 0;
}

/* Out of reach at once; unmapped when its last user has gone. */
static void window_kill(struct shm_connection *connection, struct shm_window *window)
{
    sl_list_remove(&window->node);
    sl_list_append(&connection->dying, &window->node);
    if (window->region != NULL) {
        sl_region_ref(window->region);
        sl_region_remove(window->region);
    }
}

int shm_window_revoke(struct shm_connection *connection, uint64_t key)
{
    struct shm_window *window = window_find(connection, key);
    if (window == NULL)
        return -SL_E_PROTOCOL;
    window->acknowledge = true;
    window_kill(connection, window);
    return 0;
}

void shm_window_revoke_all(struct shm_connection *connection)
{
    for (unsigned i = 0; i < SHM_BUCKETS; i++) {
        sl_list_for_each(node, &connection->windows[i])
            window_kill(connection, sl_list_entry(node, struct shm_window, node));
    }
}

bool shm_window_drain(struct shm_connection *connection)
{
    sl_list_for_each(node, &connection->dying)
    {
        struct shm_window *window = sl_list_entry(node, struct shm_window, node);
        if (window->region != NULL) {
            if (window->region->references > 1)
                continue;
            sl_region_unref(window->region);
        }
        struct shm_control control = {.type = SHM_REVOKED, .key = window->key};
        if (window->acknowledge && connection->state == SHM_UP &&
            shm_control_send(connection, &control, -1) < 0)
            shm_connection_fail(connection, -ENOMEM);
        window_free(connection, window);
    }
    return sl_list_is_empty(&connection->dying);
}

void shm_window_abandon(struct shm_connection *connection)
{
    sl_list_for_each(node, &connection->dying)
    {
        struct shm_window *window = sl_list_entry(node, struct shm_window, node);
        if (window->region != NULL)
            sl_region_unref(window->region);
        window_free(connection, window);
    }
}

/* ---- our own memory ---- */

int shm_region_announce(struct shm_connection *connection, struct sl_region *region)
{
    const struct shm_key *key = region->client_data[connection->domain->client.index];
    if (key == NULL)
        return 0;
    struct shm_control control = {
        .type = SHM_ANNOUNCE,
        .key = key->key,
        .offset_bytes = region->memfd_offset_bytes,
        .length_bytes = region->length_bytes,
        .access = key->access,
    };
    int error = shm_control_send(connection, &control, region->memfd);
    if (error == 0)
        connection->announced++;
    return error;
}

void shm_region_revoke(struct shm_connection *connection, struct sl_region *region,
                       const struct shm_key *key)
{
    struct shm_revocation *revocation = malloc(sizeof(*revocation));
    struct shm_control control = {.type = SHM_REVOKE, .key = key->key};
    if (revocation == NULL || shm_control_send(connection, &control, -1) < 0) {
        free(revocation);
        shm_connection_fail(connection, -ENOMEM);
        return;
    }
    connection->announced++;
    atomic_store(&connection->channel.producer.shared->note, connection->announced);
    *revocation = (struct shm_revocation){.key = key->key, .region = region};
    sl_region_ref(region);
    sl_list_append(&connection->revocations, &revocation->node);
}

static void revocation_end(struct shm_revocation *revocation)
{
    sl_list_remove(&revocation->node);
    sl_region_unref(revocation->region);
    free(revocation);
}

int shm_region_revoked(struct shm_connection *connection, uint64_t key)
{
    sl_list_for_each(node, &connection->revocations)
    {
        struct shm_revocation *revocation = sl_list_entry(node, struct shm_revocation, node);
        if (revocation->key == key) {
            revocation_end(revocation);
            return 0;
        }
    }
    return -SL_E_PROTOCOL;
}

void shm_region_release_all(struct shm_connection *connection)
{
    sl_list_for_each(node, &connection->revocations)
        revocation_end(sl_list_entry(node, struct shm_revocation, node));
}
