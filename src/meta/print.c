/* A cluster as a cluster file: what parse.c reads. Any thread. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>

#include "meta/cluster.h"

/* Ids are 64 bits wide, JSON's integers 63. */
static json_t *json_id(uint64_t id)
{
    return json_sprintf("%016llx", (unsigned long long)id);
}

static json_t *json_cluster_id(const uint8_t *id)
{
    char text[33];
    for (unsigned i = 0; i < 16; i++)
        snprintf(text + 2 * (size_t)i, 3, "%02x", id[i]);
    return json_string(text);
}

static json_t *json_nodes(const struct sl_cluster *cluster)
{
    json_t *array = json_array();
    for (unsigned i = 0; i < cluster->node_count; i++) {
        const struct sl_cluster_node *node = &cluster->nodes[i];
        json_t *object =
            json_pack("{s:I, s:s}", "id", (json_int_t)node->id, "address", node->address);
        if (node->domain[0] != '\0')
            json_object_set_new(object, "domain", json_string(node->domain));
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *json_groups(const struct sl_cluster *cluster)
{
    json_t *array = json_array();
    for (unsigned i = 0; i < cluster->group_count; i++) {
        const struct sl_cluster_group *group = &cluster->groups[i];
        json_t *replicas = json_array();
        for (unsigned j = 0; j < group->replica_count; j++)
            json_array_append_new(
                replicas, json_pack("{s:I, s:o}", "node", (json_int_t)group->replicas[j].node,
                                    "replica", json_id(group->replicas[j].replica)));
        json_array_append_new(array,
                              json_pack("{s:I, s:I, s:o}", "id", (json_int_t)group->id, "size",
                                        (json_int_t)group->size_bytes, "replicas", replicas));
    }
    return array;
}

static json_t *json_volumes(const struct sl_cluster *cluster)
{
    json_t *array = json_array();
    for (unsigned i = 0; i < cluster->volume_count; i++) {
        const struct sl_cluster_volume *volume = &cluster->volumes[i];
        json_t *extents = json_array();
        for (unsigned j = 0; j < volume->extent_count; j++)
            json_array_append_new(
                extents, json_pack("{s:I, s:I, s:I}", "group", (json_int_t)volume->extents[j].group,
                                   "offset", (json_int_t)volume->extents[j].offset_bytes, "size",
                                   (json_int_t)volume->extents[j].size_bytes));
        json_array_append_new(array, json_pack("{s:I, s:s, s:I, s:I, s:b, s:o}", "id",
                                               (json_int_t)volume->id, "name", volume->name, "size",
                                               (json_int_t)volume->size_bytes, "stripe",
                                               (json_int_t)volume->stripe_bytes, "shared",
                                               volume->shared, "extents", extents));
    }
    return array;
}

int sl_cluster_print(const struct sl_cluster *cluster, FILE *file)
{
    json_t *root = json_pack("{s:i, s:o}", "sluice_cluster", 1, "id", json_cluster_id(cluster->id));
    if (root != NULL && cluster->key_file[0] != '\0')
        json_object_set_new(root, "key_file", json_string(cluster->key_file));
    json_object_set_new(root, "nodes", json_nodes(cluster));
    json_object_set_new(root, "groups", json_groups(cluster));
    json_object_set_new(root, "volumes", json_volumes(cluster));
    char *text = root != NULL ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (text == NULL)
        return -ENOMEM;
    int status = fprintf(file, "%s\n", text) < 0 || fflush(file) != 0 ? -errno : 0;
    free(text);
    return status;
}
