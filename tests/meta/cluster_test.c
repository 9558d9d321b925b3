/*
 * Goal: a cluster file that holds together is read as it stands, and every other one is refused
 * with a message that names the place. Method: one good file; each case changes it in one place and
 * says what the message must contain. What is read is printed and read again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "meta/cluster.h"

static const char good[] =
    "{\"sluice_cluster\": 1, \"id\": \"00112233445566778899aabbccddeeff\",\n"
    " \"key_file\": \"/etc/key\",\n"
    " \"nodes\": [{\"id\": 2, \"address\": \"b:1\"}, {\"id\": 1, \"address\": \"a:1\", "
    "\"domain\": \"rack\"}],\n"
    " \"groups\": [{\"id\": 8, \"size\": 33554432, \"replicas\": [\n"
    "   {\"node\": 1, \"replica\": \"fedcba9876543210\"},"
    " {\"node\": 2, \"replica\": \"0000000000000001\"}]},\n"
    "  {\"id\": 7, \"size\": \"64MiB\", \"replicas\": "
    "[{\"node\": 2, \"replica\": \"0000000000000002\"}]}],\n"
    " \"volumes\": [{\"id\": 5, \"name\": \"vm\", \"size\": \"20MiB\", \"stripe\": \"64K\", "
    "\"extents\": [\n"
    "   {\"group\": 7, \"offset\": \"48M\", \"size\": \"16M\"}, {\"group\": 8, \"size\": "
    "16777216}]},\n"
    "  {\"id\": 6, \"name\": \"pool\", \"size\": 16777216, \"shared\": true, \"extents\": ["
    "{\"group\": 7, \"size\": \"48M\"}]}]}\n";

static struct sl_cluster *read_good(const char *text)
{
    struct sl_cluster *cluster = NULL;
    char error[512] = "";
    int status = sl_cluster_parse("file", text, strlen(text), &cluster, error, sizeof(error));
    if (status < 0)
        fail_msg("%s", error);
    return cluster;
}

static void check_good(const struct sl_cluster *cluster)
{
    assert_int_equal(cluster->id[1], 0x11);
    assert_string_equal(cluster->key_file, "/etc/key");
    assert_int_equal(cluster->node_count, 2);
    assert_string_equal(sl_cluster_find_node(cluster, 1)->address, "a:1");
    assert_string_equal(sl_cluster_find_node(cluster, 1)->domain, "rack");
    assert_string_equal(sl_cluster_find_node(cluster, 2)->domain, "");
    assert_null(sl_cluster_find_node(cluster, 3));
    const struct sl_cluster_group *group = sl_cluster_find_group(cluster, 8);
    assert_int_equal(group->size_bytes, 32 * SL_MIB);
    assert_int_equal(group->replica_count, 2);
    assert_true(group->replicas[0].replica == UINT64_C(0xfedcba9876543210));
    assert_int_equal(group->replicas[1].node, 2);
    assert_null(sl_cluster_find_group(cluster, 9));
    const struct sl_cluster_volume *volume = sl_cluster_find_volume(cluster, "vm");
    assert_ptr_equal(volume, &cluster->volumes[0]);
    assert_int_equal(volume->stripe_bytes, 64 * SL_KIB);
    assert_int_equal(volume->extent_count, 2);
    assert_int_equal(volume->extents[0].offset_bytes, 48 * SL_MIB);
    assert_false(volume->shared);
    volume = sl_cluster_find_volume(cluster, "pool");
    assert_true(volume->shared);
    assert_int_equal(volume->stripe_bytes, SL_MIB);
    assert_null(sl_cluster_find_volume(cluster, "po"));
}

static void test_good(void **state)
{
    struct sl_cluster *cluster = read_good(good);
    check_good(cluster);
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = open_memstream(&text, &bytes);
    assert_int_equal(sl_cluster_print(cluster, file), 0);
    fclose(file);
    sl_cluster_free(cluster);
    cluster = read_good(text);
    check_good(cluster);
    sl_cluster_free(cluster);
    free(text);
    sl_cluster_free(NULL);
}

/* The good file with its first `from` replaced by `to`. */
static char *changed(const char *from, const char *to)
{
    const char *at = strstr(good, from);
    assert_non_null(at);
    char *text = malloc(sizeof(good) + strlen(to));
    sprintf(text, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    return text;
}

static const struct {
    const char *from, *to, *message;
} bad[] = {
    {"{", "", "line 1, column"},
    {"\"sluice_cluster\": 1, ", "", "no cluster file"},
    {"\"sluice_cluster\": 1", "\"sluice_cluster\": 2", "version 2"},
    {"00112233", "0011223", "'id' must be a text of 32"},
    {"00112233", "0011223g", "'id' must be a text of 32"},
    {"\"nodes\"", "\"notes\"", "nothing is called 'notes' here; there are: sluice_cluster id"},
    {"\"id\": 2", "\"id\": 0", "nodes[0]: 'id' must be a number from 1"},
    {"\"id\": 2", "\"id\": 4294967296", "nodes[0]: 'id'"},
    {"\"id\": 2", "\"id\": 1", "node 1 is there twice"},
    {"\"b:1\"", "\"a:1\"", "have one address, a:1"},
    {"\"b:1\"", "\"b\"", "node 2 has the address 'b'; HOST:PORT is meant"},
    {"\"b:1\"", "\"b:65536\"", "HOST:PORT is meant"},
    {"\"b:1\"", "\":1\"", "HOST:PORT is meant"},
    {"\"b:1\"", "\"b:0\"", "HOST:PORT is meant"},
    {"\"b:1\"", "\"\"", "nodes[0]: 'address' must be a text"},
    {"\"b:1\"", "\"b\\u0000c\"", "line 3, column"},
    {"\"b:1\"}", "\"b:1\", \"adress\": 1}", "nodes[0]: nothing is called 'adress'"},
    {"{\"id\": 2, \"address\": \"b:1\"}", "7", "nodes[0]: an object {…} is needed"},
    {"\"size\": 33554432", "\"size\": 33554433", "group 8: a size of 33554433"},
    {"\"size\": 33554432", "\"size\": -1", "groups[0]: 'size' must be a size"},
    {"\"size\": 33554432", "\"size\": \"32MB\"", "groups[0]: 'size' must be a size"},
    {"\"id\": 8, ", "\"id\": 7, ", "group 7 is there twice"},
    {"\"node\": 2, \"rep", "\"node\": 3, \"rep", "replica on node 3, which is not there"},
    {"\"node\": 2, \"rep", "\"node\": 1, \"rep", "group 8 has two replicas on node 1"},
    {"fedcba9876543210", "0000000000000001", "two replicas have the id 0000000000000001"},
    {"fedcba9876543210", "0000000000000000", "has the id 0"},
    {"fedcba9876543210", "fedcba987654321", "groups[0].replicas[0]: 'replica' must be"},
    {"{\"node\": 2, \"replica\": \"0000000000000002\"}", "", "group 7 has 0 replicas"},
    {"\"id\": 5", "\"id\": 6", "have one id, 6"},
    {"\"pool\"", "\"vm\"", "volume 'vm' is there twice"},
    {"\"20MiB\"", "\"33MiB\"", "volume 'vm': a size of 34603008"},
    {"\"20MiB\"", "\"4097\"", "volume 'vm': a size of 4097"},
    {"\"64K\"", "\"96K\"", "stripes of 98304"},
    {"\"64K\"", "\"32K\"", "stripes of 32768"},
    {"\"64K\"", "\"8G\"", "stripes of 0"},
    {"\"group\": 8", "\"group\": 9", "lies in group 9, which is not there"},
    {"\"48M\"", "\"64M\"", "beyond the group's 67108864"},
    {"\"48M\"", "\"40M\"", "whole pieces of 16 MiB"},
    {"\"48M\"", "\"32M\"", "volumes 'pool' and 'vm' overlap in group 7 at 33554432"},
    {"16777216}]}", "33554432}]}", "not all of one size"},
    {"\"shared\": true", "\"shared\": 1", "volumes[1]: 'shared' must be true or false"},
    {"\"id\": 6,", "\"id\": 6, \"id\": 6,", "duplicate"},
};

static void test_bad(void **state)
{
    for (unsigned i = 0; i < SL_COUNT_OF(bad); i++) {
        char *text = changed(bad[i].from, bad[i].to);
        struct sl_cluster *cluster = NULL;
        char error[512] = "";
        int status = sl_cluster_parse("file", text, strlen(text), &cluster, error, sizeof(error));
        if (status != -EINVAL || strncmp(error, "file: ", 6) != 0 ||
            strstr(error, bad[i].message) == NULL)
            fail_msg("'%s' instead of '%s': %d, '%s'", bad[i].to, bad[i].from, status, error);
        free(text);
    }
}

static void test_file(void **state)
{
    char path[] = "cluster-test-XXXXXX", error[512];
    struct sl_cluster *cluster;
    int descriptor = mkstemp(path);
    assert_int_equal(write(descriptor, good, strlen(good)), strlen(good));
    close(descriptor);
    assert_int_equal(sl_cluster_load(path, &cluster, error, sizeof(error)), 0);
    check_good(cluster);
    sl_cluster_free(cluster);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(sl_cluster_load(path, &cluster, error, sizeof(error)), -EINVAL);
    assert_non_null(strstr(error, path));
    unlink(path);
    assert_int_equal(sl_cluster_load(path, &cluster, error, sizeof(error)), -ENOENT);
    assert_non_null(strstr(error, "sluice cluster create"));
    assert_int_equal(sl_cluster_load(".", &cluster, error, sizeof(error)), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
