/*
 * The cluster file: docs/operations.md, "Cluster file". JSON by jansson, then every field by its
 * name; an unknown name is an error, for it is a mistyped one. The file is input from outside.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/size.h"
#include "meta/cluster.h"

/* What is being read, for messages; the first error stays. */
struct parse {
    const char *name; /* of the file */
    char where[96];   /* "groups[3].replicas[0]" */
    char *error;
    size_t error_bytes;
    int status;
};

__attribute__((format(printf, 2, 3))) static void fail(struct parse *parse, const char *format, ...)
{
    if (parse->status < 0)
        return;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    snprintf(parse->error, parse->error_bytes, "%s: %s%s%s", parse->name, parse->where,
             parse->where[0] != '\0' ? ": " : "", text);
    parse->status = -EINVAL;
}

/* An object all of whose names are among `names` (NULL at the end). */
static bool is_object(struct parse *parse, const json_t *value, const char *const *names)
{
    const char *key;
    json_t *member;
    if (!json_is_object(value)) {
        fail(parse, "an object {…} is needed here");
        return false;
    }
    json_object_foreach((json_t *)value, key, member)
    {
        unsigned i = 0;
        while (names[i] != NULL && strcmp(names[i], key) != 0)
            i++;
        if (names[i] != NULL)
            continue;
        char known[256] = "";
        for (i = 0; names[i] != NULL; i++)
            snprintf(known + strlen(known), sizeof(known) - strlen(known), " %s", names[i]);
        fail(parse, "nothing is called '%.64s' here; there are:%s", key, known);
        return false;
    }
    return true;
}

/* An array of at most `most`; answers its length. */
static unsigned array_of(struct parse *parse, const json_t *object, const char *key, unsigned most,
                         const json_t **array)
{
    *array = json_object_get(object, key);
    if (!json_is_array(*array)) {
        fail(parse, "'%s', a list […], is missing", key);
        return 0;
    }
    size_t count = json_array_size(*array);
    if (count > most) {
        fail(parse, "'%s' has %zu entries; at most %u", key, count, most);
        return 0;
    }
    return (unsigned)count;
}

static void text_of(struct parse *parse, const json_t *object, const char *key, bool needed,
                    char *text, size_t text_bytes)
{
    const json_t *value = json_object_get(object, key);
    text[0] = '\0';
    if (value == NULL && !needed)
        return;
    if (!json_is_string(value) || json_string_length(value) == 0 ||
        strlen(json_string_value(value)) != json_string_length(value)) {
        fail(parse, "'%s' must be a text", key);
        return;
    }
    if (json_string_length(value) >= text_bytes) {
        fail(parse, "'%s' is too long: %zu bytes, at most %zu", key, json_string_length(value),
             text_bytes - 1);
        return;
    }
    snprintf(text, text_bytes, "%s", json_string_value(value));
}

static uint32_t number_of(struct parse *parse, const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > UINT32_MAX) {
        fail(parse, "'%s' must be a number from 1", key);
        return 0;
    }
    return (uint32_t)json_integer_value(value);
}

/* Bytes, or a text such as "10GiB". */
static uint64_t size_of(struct parse *parse, const json_t *object, const char *key,
                        uint64_t fallback)
{
    const json_t *value = json_object_get(object, key);
    uint64_t bytes = 0;
    if (value == NULL && fallback != UINT64_MAX)
        return fallback;
    if (json_is_integer(value) && json_integer_value(value) >= 0)
        return (uint64_t)json_integer_value(value);
    if (json_is_string(value) && sl_size_parse(json_string_value(value), &bytes) == 0)
        return bytes;
    fail(parse, "'%s' must be a size: bytes, or a text such as \"10GiB\"", key);
    return 0;
}

/* Hexadecimal digits, two a byte, nothing else. */
static void hex_of(struct parse *parse, const json_t *object, const char *key, uint8_t *bytes,
                   unsigned count)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (text == NULL || strlen(text) != 2 * (size_t)count ||
        strspn(text, "0123456789abcdefABCDEF") != 2 * (size_t)count) {
        fail(parse, "'%s' must be a text of %u hexadecimal digits", key, 2 * count);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        const char pair[] = {text[2 * (size_t)i], text[2 * (size_t)i + 1], '\0'};
        bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
}

/* Takes the place `format` while one entry of a list is read. */
__attribute__((format(printf, 2, 3))) static void enter(struct parse *parse, const char *format,
                                                        ...)
{
    va_list arguments;
    if (parse->status < 0)
        return; /* the message has been made */
    va_start(arguments, format);
    vsnprintf(parse->where, sizeof(parse->where), format, arguments);
    va_end(arguments);
}

static void *list_of(struct parse *parse, unsigned count, size_t entry_bytes)
{
    void *entries = calloc(sl_max(count, 1u), entry_bytes);
    if (entries == NULL && parse->status == 0) {
        fail(parse, "out of memory");
        parse->status = -ENOMEM;
    }
    return entries;
}

static void parse_nodes(struct parse *parse, const json_t *root, struct sl_cluster *cluster)
{
    static const char *const names[] = {"id", "address", "domain", NULL};
    const json_t *array;
    unsigned count = array_of(parse, root, "nodes", SL_CLUSTER_NODES_MAX, &array);
    cluster->nodes = list_of(parse, count, sizeof(cluster->nodes[0]));
    for (unsigned i = 0; i < count && parse->status == 0; i++) {
        const json_t *object = json_array_get(array, i);
        struct sl_cluster_node *node = &cluster->nodes[cluster->node_count++];
        enter(parse, "nodes[%u]", i);
        if (!is_object(parse, object, names))
            break;
        node->id = number_of(parse, object, "id");
        text_of(parse, object, "address", true, node->address, sizeof(node->address));
        text_of(parse, object, "domain", false, node->domain, sizeof(node->domain));
    }
    enter(parse, "%s", "");
}

static void parse_replicas(struct parse *parse, const json_t *object, unsigned at,
                           struct sl_cluster_group *group)
{
    static const char *const names[] = {"node", "replica", NULL};
    const json_t *array;
    unsigned count = array_of(parse, object, "replicas", SL_CLUSTER_REPLICAS_MAX, &array);
    for (unsigned i = 0; i < count && parse->status == 0; i++) {
        const json_t *entry = json_array_get(array, i);
        struct sl_cluster_replica *replica = &group->replicas[group->replica_count++];
        uint8_t bytes[8] = {0};
        enter(parse, "groups[%u].replicas[%u]", at, i);
        if (!is_object(parse, entry, names))
            break;
        replica->node = number_of(parse, entry, "node");
        hex_of(parse, entry, "replica", bytes, sizeof(bytes));
        for (unsigned j = 0; j < sizeof(bytes); j++)
            replica->replica = replica->replica << 8 | bytes[j];
    }
}

static void parse_groups(struct parse *parse, const json_t *root, struct sl_cluster *cluster)
{
    static const char *const names[] = {"id", "size", "replicas", NULL};
    const json_t *array;
    unsigned count = array_of(parse, root, "groups", SL_CLUSTER_GROUPS_MAX, &array);
    cluster->groups = list_of(parse, count, sizeof(cluster->groups[0]));
    for (unsigned i = 0; i < count && parse->status == 0; i++) {
        const json_t *object = json_array_get(array, i);
        struct sl_cluster_group *group = &cluster->groups[cluster->group_count++];
        enter(parse, "groups[%u]", i);
        if (!is_object(parse, object, names))
            break;
        group->id = number_of(parse, object, "id");
        group->size_bytes = size_of(parse, object, "size", UINT64_MAX);
        parse_replicas(parse, object, i, group);
    }
    enter(parse, "%s", "");
}

static void parse_extents(struct parse *parse, const json_t *object, unsigned at,
                          struct sl_cluster_volume *volume)
{
    static const char *const names[] = {"group", "offset", "size", NULL};
    const json_t *array;
    unsigned count = array_of(parse, object, "extents", SL_CLUSTER_EXTENTS_MAX, &array);
    volume->extents = list_of(parse, count, sizeof(volume->extents[0]));
    for (unsigned i = 0; i < count && parse->status == 0; i++) {
        const json_t *entry = json_array_get(array, i);
        struct sl_cluster_extent *extent = &volume->extents[volume->extent_count++];
        enter(parse, "volumes[%u].extents[%u]", at, i);
        if (!is_object(parse, entry, names))
            break;
        extent->group = number_of(parse, entry, "group");
        extent->offset_bytes = size_of(parse, entry, "offset", 0);
        extent->size_bytes = size_of(parse, entry, "size", UINT64_MAX);
    }
}

static void parse_volumes(struct parse *parse, const json_t *root, struct sl_cluster *cluster)
{
    static const char *const names[] = {"id", "name", "size", "stripe", "shared", "extents", NULL};
    const json_t *array;
    unsigned count = array_of(parse, root, "volumes", SL_CLUSTER_VOLUMES_MAX, &array);
    cluster->volumes = list_of(parse, count, sizeof(cluster->volumes[0]));
    for (unsigned i = 0; i < count && parse->status == 0; i++) {
        const json_t *object = json_array_get(array, i);
        struct sl_cluster_volume *volume = &cluster->volumes[cluster->volume_count++];
        enter(parse, "volumes[%u]", i);
        if (!is_object(parse, object, names))
            break;
        volume->id = number_of(parse, object, "id");
        text_of(parse, object, "name", true, volume->name, sizeof(volume->name));
        volume->size_bytes = size_of(parse, object, "size", UINT64_MAX);
        uint64_t stripe_bytes = size_of(parse, object, "stripe", SL_MIB);
        /* What does not fit is no stripe either: the check says so. */
        volume->stripe_bytes = stripe_bytes > UINT32_MAX ? 0 : (uint32_t)stripe_bytes;
        const json_t *shared = json_object_get(object, "shared");
        if (shared != NULL && !json_is_boolean(shared))
            fail(parse, "'shared' must be true or false");
        volume->shared = json_is_true(shared);
        parse_extents(parse, object, i, volume);
    }
    enter(parse, "%s", "");
}

static void parse_root(struct parse *parse, const json_t *root, struct sl_cluster *cluster)
{
    static const char *const names[] = {"sluice_cluster", "id",      "key_file", "nodes",
                                        "groups",         "volumes", NULL};
    if (!is_object(parse, root, names))
        return;
    const json_t *version = json_object_get(root, "sluice_cluster");
    if (!json_is_integer(version)) {
        fail(parse, "it is no cluster file: \"sluice_cluster\": 1 is missing");
        return;
    }
    if (json_integer_value(version) != 1) {
        fail(parse, "it is of version %" JSON_INTEGER_FORMAT "; this program knows 1",
             json_integer_value(version));
        return;
    }
    hex_of(parse, root, "id", cluster->id, sizeof(cluster->id));
    text_of(parse, root, "key_file", false, cluster->key_file, sizeof(cluster->key_file));
    parse_nodes(parse, root, cluster);
    if (parse->status == 0)
        parse_groups(parse, root, cluster);
    if (parse->status == 0)
        parse_volumes(parse, root, cluster);
}

int sl_cluster_parse(const char *name, const char *text, size_t text_bytes,
                     struct sl_cluster **result, char *error, size_t error_bytes)
{
    struct parse parse = {.name = name, .error = error, .error_bytes = error_bytes};
    json_error_t syntax;
    json_t *root = json_loadb(text, text_bytes, JSON_REJECT_DUPLICATES, &syntax);
    if (root == NULL) {
        fail(&parse, "line %d, column %d: %s", syntax.line, syntax.column, syntax.text);
        return parse.status;
    }
    struct sl_cluster *cluster = list_of(&parse, 1, sizeof(*cluster));
    if (cluster != NULL)
        parse_root(&parse, root, cluster);
    json_decref(root);
    if (parse.status == 0) {
        char contradiction[512] = "";
        parse.status = sl_cluster_check(cluster, contradiction, sizeof(contradiction));
        if (parse.status < 0)
            snprintf(error, error_bytes, "%s: %s", name, contradiction);
    }
    if (parse.status < 0) {
        sl_cluster_free(cluster);
        return parse.status;
    }
    *result = cluster;
    return 0;
}

/* The whole file; the caller frees it. */
static int read_file(const char *path, char **text, size_t *text_bytes)
{
    struct stat status;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return -errno;
    int error = fstat(descriptor, &status) < 0                      ? -errno
                : S_ISDIR(status.st_mode)                           ? -EISDIR
                : status.st_size > (off_t)SL_CLUSTER_FILE_BYTES_MAX ? -EFBIG
                                                                    : 0;
    size_t size = error == 0 ? (size_t)status.st_size : 0;
    *text = error == 0 ? malloc(size + 1) : NULL;
    *text_bytes = 0;
    if (error == 0 && *text == NULL)
        error = -ENOMEM;
    while (error == 0 && *text_bytes < size) {
        ssize_t count = read(descriptor, *text + *text_bytes, size - *text_bytes);
        if (count < 0 && errno != EINTR)
            error = -errno;
        if (count == 0)
            break;
        if (count > 0)
            *text_bytes += (size_t)count;
    }
    close(descriptor);
    if (error < 0)
        free(*text);
    return error;
}

int sl_cluster_load(const char *path, struct sl_cluster **cluster, char *error, size_t error_bytes)
{
    char *text = NULL;
    size_t text_bytes = 0;
    int status = read_file(path, &text, &text_bytes);
    if (status < 0) {
        snprintf(error, error_bytes, "%s cannot be read: %s (%s)%s", path, sl_error_text(status),
                 sl_error_name(status),
                 status == -ENOENT ? "; 'sluice cluster create' makes one" : "");
        return status == -ENOENT || status == -EACCES || status == -ENOMEM ? status : -EINVAL;
    }
    status = sl_cluster_parse(path, text, text_bytes, cluster, error, error_bytes);
    free(text);
    return status;
}
