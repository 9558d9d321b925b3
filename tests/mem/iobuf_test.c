/*
 * Goal: lists of spans keep bytes, order and owners through any cutting and joining, change nothing
 * when they refuse, and the PRP rule says what NVMe says.
 * Method: random slices against a model that is a plain string of bytes (each byte of the memory
 * tells its place), with the references counted; a table of piece lists with the rule's answer.
 */
#include "harness.h"

#include "mem/iobuf.h"

#define BUFFERS   4
#define BYTES_MAX (256 * SL_KIB)
#define ROUNDS    3000
#define PAGE      4096u

struct world {
    struct sl_memory *memory;
    struct sl_buf *bufs[BUFFERS];
    uint64_t random;
};

static void world_create(struct world *world)
{
    struct sl_memory_config config = {.limit_bytes = 8 * SL_MIB, .numa_node = -1};
    *world = (struct world){.random = 42};
    assert_int_equal(sl_memory_create(&config, &world->memory), 0);
    for (unsigned i = 0; i < BUFFERS; i++) {
        world->bufs[i] = sl_buf_alloc(world->memory, 64 * SL_KIB, SL_RESERVE_ADMISSION);
        assert_non_null(world->bufs[i]);
        for (unsigned k = 0; k < world->bufs[i]->length_bytes; k++)
            world->bufs[i]->data[k] = (uint8_t)(test_random(&world->random) >> 8);
    }
}

static void world_destroy(struct world *world)
{
    for (unsigned i = 0; i < BUFFERS; i++) {
        assert_int_equal(world->bufs[i]->references, 1);
        sl_buf_unref(world->bufs[i]);
    }
    sl_memory_destroy(world->memory);
}

static void iobuf_check(const struct sl_iobuf *iobuf, const uint8_t *bytes, uint32_t length)
{
    uint32_t at = 0;
    assert_int_equal(iobuf->length_bytes, length);
    assert_true(iobuf->span_count <= SL_IOBUF_SPANS_MAX);
    for (unsigned i = 0; i < iobuf->span_count; i++) {
        assert_true(iobuf->spans[i].length_bytes > 0);
        assert_true(at + iobuf->spans[i].length_bytes <= length);
        assert_memory_equal(iobuf->spans[i].data, bytes + at, iobuf->spans[i].length_bytes);
        if (iobuf->owners[i] != NULL)
            assert_ptr_equal(iobuf->spans[i].region, iobuf->owners[i]->region);
        at += iobuf->spans[i].length_bytes;
    }
    assert_int_equal(at, length);
}

/* One reference a span, besides ours. */
static void references_check(const struct world *world, const struct sl_iobuf *a,
                             const struct sl_iobuf *b)
{
    for (unsigned i = 0; i < BUFFERS; i++) {
        uint32_t expected = 1;
        for (unsigned k = 0; k < a->span_count; k++)
            expected += a->owners[k] == world->bufs[i];
        for (unsigned k = 0; k < b->span_count; k++)
            expected += b->owners[k] == world->bufs[i];
        assert_int_equal(world->bufs[i]->references, expected);
    }
}

static void append_piece(struct world *world, struct sl_iobuf *iobuf, uint8_t *bytes,
                         uint32_t *length)
{
    struct sl_buf *buf = world->bufs[test_random(&world->random) % BUFFERS];
    uint32_t offset = test_random(&world->random) % buf->length_bytes;
    uint32_t count = test_random(&world->random) % sl_min(buf->length_bytes - offset + 1, 9000u);
    if (*length + count > BYTES_MAX)
        return;
    unsigned spans = iobuf->span_count;
    int error = test_random(&world->random) % 4 == 0
                    ? sl_iobuf_append_span(iobuf, sl_buf_span(buf, offset, count))
                    : sl_iobuf_append_buf(iobuf, buf, offset, count);
    if (error < 0) {
        assert_int_equal(error, -ENOSPC);
        assert_int_equal(spans, SL_IOBUF_SPANS_MAX);
        return;
    }
    memcpy(bytes + *length, buf->data + offset, count);
    *length += count;
}

static void cut_and_join(void **state)
{
    (void)state;
    static uint8_t source_bytes[BYTES_MAX], target_bytes[BYTES_MAX];
    struct world world;
    unsigned refused = 0, joined = 0;
    world_create(&world);
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct sl_iobuf source, target;
        uint32_t source_length = 0, target_length = 0;
        sl_iobuf_init(&source);
        sl_iobuf_init(&target);
        for (unsigned i = test_random(&world.random) % 24; i > 0; i--)
            append_piece(&world, &source, source_bytes, &source_length);
        iobuf_check(&source, source_bytes, source_length);
        for (unsigned i = 0; i < 8; i++) {
            uint32_t offset = test_random(&world.random) % (source_length + 1);
            uint32_t count = test_random(&world.random) % (source_length - offset + 1);
            if (target_length + count > BYTES_MAX)
                break;
            int error = sl_iobuf_append_slice(&target, &source, offset, count);
            if (error == 0) {
                memcpy(target_bytes + target_length, source_bytes + offset, count);
                target_length += count;
                joined++;
            } else {
                assert_int_equal(error, -ENOSPC);
                refused++;
            }
            iobuf_check(&target, target_bytes, target_length);
            references_check(&world, &source, &target);
        }
        sl_iobuf_fini(&source); /* what was shared lives on */
        iobuf_check(&target, target_bytes, target_length);
        sl_iobuf_fini(&target);
        assert_int_equal(target.span_count, 0);
    }
    assert_true(refused > 100 && joined > 1000);
    world_destroy(&world);
}

/* A cut that is joined again in order is one span, with one reference. */
static void neighbours_merge(void **state)
{
    (void)state;
    struct world world;
    struct sl_iobuf iobuf;
    world_create(&world);
    sl_iobuf_init(&iobuf);
    for (uint32_t at = 0; at < 64 * SL_KIB; at += PAGE)
        assert_int_equal(sl_iobuf_append_buf(&iobuf, world.bufs[0], at, PAGE), 0);
    assert_int_equal(iobuf.span_count, 1);
    assert_int_equal(world.bufs[0]->references, 2);
    /* The same bytes, borrowed, are not covered by that reference: another span. */
    assert_int_equal(sl_iobuf_append_span(&iobuf, sl_buf_span(world.bufs[0], 0, PAGE)), 0);
    assert_int_equal(iobuf.span_count, 2);
    /* A list appended to itself. */
    assert_int_equal(sl_iobuf_append_slice(&iobuf, &iobuf, PAGE, 64 * SL_KIB), 0);
    assert_int_equal(iobuf.length_bytes, 2 * 64 * SL_KIB + PAGE);
    assert_int_equal(iobuf.span_count, 4);
    sl_iobuf_fini(&iobuf);
    world_destroy(&world);
}

static void refusals(void **state)
{
    (void)state;
    struct world world;
    struct sl_iobuf iobuf, other;
    world_create(&world);
    sl_iobuf_init(&iobuf);
    sl_iobuf_init(&other);
    struct sl_buf *buf = world.bufs[0];
    assert_int_equal(sl_iobuf_append_buf(&iobuf, buf, 64 * SL_KIB, 1), -EINVAL);
    assert_int_equal(sl_iobuf_append_buf(&iobuf, buf, 1, 64 * SL_KIB), -EINVAL);
    assert_int_equal(sl_iobuf_append_buf(&iobuf, buf, UINT32_MAX, 2), -EINVAL);
    assert_int_equal(sl_iobuf_append_buf(&iobuf, buf, 64 * SL_KIB, 0), 0);
    assert_int_equal(iobuf.span_count, 0);
    assert_int_equal(sl_iobuf_append_buf(&iobuf, buf, 0, 8), 0);
    assert_int_equal(sl_iobuf_append_slice(&other, &iobuf, 9, 0), -EINVAL);
    assert_int_equal(sl_iobuf_append_slice(&other, &iobuf, 4, 5), -EINVAL);
    assert_int_equal(sl_iobuf_append_slice(&other, &iobuf, 8, UINT32_MAX), -EINVAL);
    assert_int_equal(sl_iobuf_append_slice(&other, &iobuf, 8, 0), 0);
    /* Lengths do not wrap. Borrowed and never touched. */
    struct sl_span huge = {(uint8_t *)(uintptr_t)PAGE, UINT32_MAX - 4, NULL};
    assert_int_equal(sl_iobuf_append_span(&iobuf, huge), -EINVAL);
    assert_int_equal(iobuf.length_bytes, 8);
    sl_iobuf_fini(&iobuf);
    sl_iobuf_fini(&other);
    world_destroy(&world);
}

/* Addresses within pages; lengths. */
static const struct prp_case {
    const char *what;
    bool obeys;
    unsigned count;
    struct {
        uintptr_t start;
        uint32_t length;
    } pieces[4];
} prp_cases[] = {
    {"nothing", true, 0, {{0, 0}}},
    {"one whole page", true, 1, {{0, PAGE}}},
    {"one piece within a page", true, 1, {{4, 8}}},
    {"one piece over many pages, from the middle to the middle", true, 1, {{2048, 3 * PAGE}}},
    {"start not on 4 bytes", false, 1, {{2, PAGE}}},
    {"length not of 4 bytes", false, 1, {{0, 511}}},
    {"an empty piece", false, 1, {{0, 0}}},
    {"an empty piece between", false, 3, {{0, PAGE}, {PAGE, 0}, {PAGE, PAGE}}},
    {"first from the middle to its end", true, 2, {{4092, 4}, {0, PAGE}}},
    {"first ends within a page", false, 2, {{0, 512}, {PAGE, PAGE}}},
    {"last starts within a page", false, 2, {{0, PAGE}, {512, PAGE}}},
    {"last ends within a page", true, 2, {{0, PAGE}, {2 * PAGE, 12}}},
    {"last with an odd length", false, 2, {{0, PAGE}, {2 * PAGE, 13}}},
    {"middle of whole pages", true, 3, {{512, 3584}, {PAGE, 2 * PAGE}, {0, 4}}},
    {"middle starts within a page", false, 3, {{0, PAGE}, {4, PAGE - 4}, {0, PAGE}}},
    {"middle ends within a page", false, 3, {{0, PAGE}, {0, PAGE + 4}, {0, PAGE}}},
    {"the second to last is a middle", false, 4, {{0, PAGE}, {0, PAGE}, {0, 8}, {0, PAGE}}},
};

static void prp_rules(void **state)
{
    (void)state;
    for (unsigned i = 0; i < SL_COUNT_OF(prp_cases); i++) {
        const struct prp_case *test = &prp_cases[i];
        struct sl_span spans[4] = {0};
        for (unsigned k = 0; k < test->count; k++) {
            spans[k].data = (uint8_t *)(16 * PAGE * (k + 1) + test->pieces[k].start);
            spans[k].length_bytes = test->pieces[k].length;
        }
        if (sl_iov_is_prp(spans, test->count) != test->obeys)
            fail_msg("%s: the rule must answer %d", test->what, test->obeys);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_and_join),
        cmocka_unit_test(neighbours_merge),
        cmocka_unit_test(refusals),
        cmocka_unit_test(prp_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
