/*
 * `sluice fabric list`: what this build and this machine have. Reads only; main thread.
 */
#include <dirent.h>
#include <ifaddrs.h>
#include <jansson.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cli/sluice/fabric.h"
#include "fabric/ofi/ofi.h"

#define DEVICES_MAX 32
#define PORTS_MAX   32

struct port {
    char device[64];
    char number[16];
    char state[64];
    char rate[64];
    char layer[64]; /* InfiniBand, Ethernet */
};

struct findings {
    const char *library; /* version; "" = none */
    const char *why_not;
    int device_count;
    struct sl_ofi_device devices[DEVICES_MAX];
    unsigned port_count;
    struct port ports[PORTS_MAX];
    const char *choice;
    char reason[256];
    rlim_t memlock;
};

static void read_line(const char *path, char *text, size_t text_bytes)
{
    FILE *file = fopen(path, "re");
    text[0] = '\0';
    if (file == NULL)
        return;
    if (fgets(text, (int)text_bytes, file) != NULL)
        text[strcspn(text, "\n")] = '\0';
    fclose(file);
}

static void find_ports_of(struct findings *f, const char *device)
{
    char folder[512], path[1024];
    snprintf(folder, sizeof(folder), "/sys/class/infiniband/%s/ports", device);
    DIR *ports = opendir(folder);
    for (const struct dirent *i;
         ports != NULL && f->port_count < PORTS_MAX && (i = readdir(ports)) != NULL;) {
        if (i->d_name[0] == '.')
            continue;
        struct port *port = &f->ports[f->port_count++];
        snprintf(port->device, sizeof(port->device), "%.63s", device);
        snprintf(port->number, sizeof(port->number), "%.15s", i->d_name);
        snprintf(path, sizeof(path), "%s/%s/state", folder, i->d_name);
        read_line(path, port->state, sizeof(port->state));
        snprintf(path, sizeof(path), "%s/%s/rate", folder, i->d_name);
        read_line(path, port->rate, sizeof(port->rate));
        snprintf(path, sizeof(path), "%s/%s/link_layer", folder, i->d_name);
        read_line(path, port->layer, sizeof(port->layer));
    }
    if (ports != NULL)
        closedir(ports);
}

static void find_ports(struct findings *f)
{
    DIR *devices = opendir("/sys/class/infiniband");
    for (const struct dirent *i; devices != NULL && (i = readdir(devices)) != NULL;)
        if (i->d_name[0] != '.')
            find_ports_of(f, i->d_name);
    if (devices != NULL)
        closedir(devices);
}

/* What to give -d. */
static void choose(struct findings *f)
{
    const struct sl_ofi_device *card = NULL;
    for (int i = 0; i < f->device_count && card == NULL; i++)
        if (strcmp(f->devices[i].provider, "verbs") == 0 && f->devices[i].up)
            card = &f->devices[i];
    if (card != NULL) {
        f->choice = "ofi";
        snprintf(f->reason, sizeof(f->reason),
                 "%.63s is an RDMA device that is up, at %.63s; on one host shm is faster",
                 card->device, card->host);
    } else {
        f->choice = "tcp";
        snprintf(f->reason, sizeof(f->reason),
                 "%s; on one host shm is faster, and ofi's tcp is for tests",
                 f->port_count > 0 ? "no RDMA device has an address and is up"
                                   : "there is no RDMA device");
    }
}

static struct findings *find(void)
{
    struct rlimit memlock = {0};
    struct findings *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return NULL;
    f->library = sl_ofi_library_version(&f->why_not);
    f->device_count = sl_ofi_devices(f->devices, DEVICES_MAX);
    if (f->device_count < 0)
        f->device_count = 0;
    find_ports(f);
    choose(f);
    (void)getrlimit(RLIMIT_MEMLOCK, &memlock);
    f->memlock = memlock.rlim_cur;
    return f;
}

static void print_interfaces(void)
{
    struct ifaddrs *interfaces;
    if (getifaddrs(&interfaces) != 0)
        return;
    for (const struct ifaddrs *i = interfaces; i != NULL; i = i->ifa_next) {
        char host[NI_MAXHOST];
        if (i->ifa_addr == NULL || i->ifa_addr->sa_family != AF_INET ||
            getnameinfo(i->ifa_addr, sizeof(struct sockaddr_in), host, sizeof(host), NULL, 0,
                        NI_NUMERICHOST) != 0)
            continue;
        printf("  tcp:%-20s %-20s %s\n", i->ifa_name, host,
               (i->ifa_flags & IFF_UP) != 0 ? "up" : "down");
    }
    freeifaddrs(interfaces);
}

static void print_text(const struct findings *f)
{
    printf("tcp: our own, on io_uring\n");
    print_interfaces();
    printf("\nshm: processes of one host\n");
    if (f->library[0] == '\0')
        printf("\nofi: libfabric cannot be loaded: %s\n", f->why_not);
    else
        printf("\nofi: libfabric %s\n", f->library);
    for (int i = 0; i < f->device_count; i++) {
        const struct sl_ofi_device *d = &f->devices[i];
        printf("  ofi+%s:%-12s %-20s %-8s %s\n", d->provider, d->device, d->host, d->interface,
               d->up ? "up" : "down");
        printf("      queues %u send, %u receive; pieces %u local, %u remote; message up to %llu "
               "bytes; inject %u; atomics %s; %s; %s\n",
               d->send_queue, d->receive_queue, d->local_pieces, d->remote_pieces,
               (unsigned long long)d->message_bytes_max, d->inject_bytes, d->atomics ? "yes" : "no",
               d->virtual_addresses ? "virtual addresses" : "offsets",
               d->local_keys ? "local memory is registered" : "no local registration");
    }
    for (unsigned i = 0; i < f->port_count; i++)
        printf("  port %s/%s: %s, %s, %s\n", f->ports[i].device, f->ports[i].number,
               f->ports[i].state, f->ports[i].rate, f->ports[i].layer);
    if (f->memlock == RLIM_INFINITY)
        printf("\nmemlock: no limit\n");
    else
        printf("\nmemlock: %llu bytes may be pinned (ulimit -l), unless CAP_IPC_LOCK lifts it\n",
               (unsigned long long)f->memlock);
    printf("choice: -d %s: %s\n", f->choice, f->reason);
}

static json_t *json_device(const struct sl_ofi_device *d)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
                     "provider", d->provider, "device", d->device, "interface", d->interface,
                     "address", d->host, "up", d->up, "atomics", d->atomics, "virtual_addresses",
                     d->virtual_addresses, "local_keys", d->local_keys, "message_bytes_max",
                     (json_int_t)sl_min(d->message_bytes_max, (uint64_t)INT64_MAX),
                     "region_count_max", (json_int_t)d->region_count_max, "local_pieces",
                     (json_int_t)d->local_pieces, "remote_pieces", (json_int_t)d->remote_pieces,
                     "send_queue", (json_int_t)d->send_queue, "receive_queue",
                     (json_int_t)d->receive_queue, "inject_bytes", (json_int_t)d->inject_bytes);
}

static void print_json(const struct findings *f)
{
    json_t *devices = json_array(), *ports = json_array(), *links = json_array();
    for (const struct sl_link_ops *const *link = sl_links(); *link != NULL; link++)
        json_array_append_new(links, json_string((*link)->name));
    for (int i = 0; i < f->device_count; i++)
        json_array_append_new(devices, json_device(&f->devices[i]));
    for (unsigned i = 0; i < f->port_count; i++)
        json_array_append_new(ports,
                              json_pack("{s:s, s:s, s:s, s:s, s:s}", "device", f->ports[i].device,
                                        "port", f->ports[i].number, "state", f->ports[i].state,
                                        "rate", f->ports[i].rate, "link_layer", f->ports[i].layer));
    json_t *root = json_pack("{s:o, s:s, s:o, s:o, s:I, s:{s:s, s:s}}", "links", links, "libfabric",
                             f->library, "devices", devices, "ports", ports, "memlock_bytes",
                             f->memlock == RLIM_INFINITY ? (json_int_t)-1 : (json_int_t)f->memlock,
                             "choice", "device", f->choice, "reason", f->reason);
    json_dumpf(root, stdout, JSON_INDENT(2));
    fputc('\n', stdout);
    json_decref(root);
}

int fabric_list(int argc, char **argv)
{
    bool json = false;
    struct sl_option rows[2] = {
        {"json", 0, SL_OPTION_FLAG, &json, .help = "print JSON instead of text"}};
    const struct sl_options description = {
        "sluice fabric list", "links, devices, ports and limits; what -d would choose, and why",
        NULL, rows};
    int parsed = sl_options_parse(&description, argc, argv, NULL, NULL, 0, stdout, stderr);
    if (parsed != 0)
        return parsed > 0 ? 0 : 2;
    struct findings *f = find();
    if (f == NULL) {
        fprintf(stderr, "sluice fabric list: out of memory\n");
        return 1;
    }
    if (json)
        print_json(f);
    else
        print_text(f);
    free(f);
    return 0;
}
