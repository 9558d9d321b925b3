/*
 * Goal: the buddy allocator never hands a page out twice, loses none, finds a block whenever the
 * rules of buddies say that there is one, and joins what is freed.
 * Method: random allocations, trims and frees of any run, over arenas that come and go, against a
 * model: one owner a page. What must be free, by order, is computed from the model alone: the
 * maximal aligned blocks of pages without an owner.
 */
#include "harness.h"

#include "mem/buddy.h"

#define ARENAS     3
#define PAGES_MAX  (3 * SL_BUDDY_BLOCK_PAGES)
#define RUNS_MAX   600
#define STEPS      60000
#define CHECK_EACH 97

struct run {
    unsigned arena; /* index */
    uint32_t first_page;
    uint32_t page_count;
};

struct model {
    struct sl_buddy buddy;
    struct sl_buddy_arena arenas[ARENAS];
    bool present[ARENAS];
    uint16_t owner[ARENAS][PAGES_MAX]; /* run + 1; 0 = free */
    struct run runs[RUNS_MAX];
    unsigned run_count;
    uint64_t random;
};

static bool block_free(const struct model *model, unsigned arena, uint32_t page, unsigned order)
{
    for (uint32_t i = 0; i < 1u << order; i++)
        if (model->owner[arena][page + i] != 0)
            return false;
    return true;
}

/* Free blocks of each order, as buddies that are always joined would have them. */
static void model_blocks(const struct model *model, unsigned counts[SL_BUDDY_ORDERS],
                         uint64_t *free_pages)
{
    memset(counts, 0, SL_BUDDY_ORDERS * sizeof(counts[0]));
    *free_pages = 0;
    for (unsigned a = 0; a < ARENAS; a++) {
        if (!model->present[a])
            continue;
        for (uint32_t page = 0; page < model->arenas[a].page_count;) {
            unsigned order = SL_BUDDY_ORDERS;
            while (order-- > 0)
                if (page % (1u << order) == 0 && block_free(model, a, page, order))
                    break;
            if (order == UINT32_MAX) { /* taken */
                page++;
                continue;
            }
            counts[order]++;
            *free_pages += 1u << order;
            page += 1u << order;
        }
    }
}

static void model_check(const struct model *model)
{
    unsigned counts[SL_BUDDY_ORDERS];
    uint64_t free_pages;
    uint32_t largest = 0;
    model_blocks(model, counts, &free_pages);
    assert_int_equal(model->buddy.free_pages, free_pages);
    for (unsigned order = 0; order < SL_BUDDY_ORDERS; order++) {
        unsigned listed = 0;
        sl_list_for_each(node, &model->buddy.free[order])
        {
            struct sl_buddy_page *head = sl_list_entry(node, struct sl_buddy_page, node);
            unsigned arena = (unsigned)(uintptr_t)head->arena->owner;
            uint32_t page = (uint32_t)(head - head->arena->pages);
            assert_int_equal(head->free_order, order + 1);
            assert_int_equal(page % (1u << order), 0);
            assert_true(block_free(model, arena, page, order));
            listed++;
        }
        assert_int_equal(listed, counts[order]);
        if (counts[order] > 0)
            largest = 1u << order;
    }
    assert_int_equal(sl_buddy_largest_pages(&model->buddy), largest);
}

static void model_own(struct model *model, const struct run *run, uint16_t from, uint16_t to)
{
    for (uint32_t i = 0; i < run->page_count; i++) {
        assert_int_equal(model->owner[run->arena][run->first_page + i], from);
        model->owner[run->arena][run->first_page + i] = to;
    }
}

static void model_alloc(struct model *model)
{
    if (model->run_count == RUNS_MAX)
        return;
    /* Mostly small, as requests are, sometimes up to a whole block. */
    uint32_t most = test_random(&model->random) % 8 == 0 ? SL_BUDDY_BLOCK_PAGES : 16;
    uint32_t page_count = 1 + test_random(&model->random) % most;
    uint32_t largest = sl_buddy_largest_pages(&model->buddy);
    struct sl_buddy_arena *arena = NULL;
    struct run run = {.page_count = page_count};
    bool found = sl_buddy_alloc(&model->buddy, page_count, &arena, &run.first_page);
    assert_int_equal(found, page_count <= largest);
    if (!found)
        return;
    run.arena = (unsigned)(uintptr_t)arena->owner;
    assert_ptr_equal(arena, &model->arenas[run.arena]);
    assert_true(run.first_page + page_count <= arena->page_count);
    /* Never across a 2 MiB block. */
    assert_int_equal(run.first_page / SL_BUDDY_BLOCK_PAGES,
                     (run.first_page + page_count - 1) / SL_BUDDY_BLOCK_PAGES);
    model->runs[model->run_count++] = run;
    model_own(model, &run, 0, (uint16_t)model->run_count);
}

/* Frees any part of a run: its head, its tail, or all of it. */
static void model_free(struct model *model)
{
    if (model->run_count == 0)
        return;
    unsigned index = test_random(&model->random) % model->run_count;
    struct run *run = &model->runs[index];
    struct run part = *run;
    unsigned what = test_random(&model->random) % 3;
    if (what != 0 && run->page_count > 1) {
        part.page_count = 1 + test_random(&model->random) % (run->page_count - 1);
        run->page_count -= part.page_count;
        if (what == 1)
            part.first_page += run->page_count;
        else
            run->first_page += part.page_count;
    } else {
        run->page_count = 0;
    }
    model_own(model, &part, (uint16_t)(index + 1), 0);
    sl_buddy_free(&model->buddy, &model->arenas[part.arena], part.first_page, part.page_count);
    if (run->page_count > 0)
        return;
    *run = model->runs[--model->run_count];
    model_own(model, run, (uint16_t)(model->run_count + 1), (uint16_t)(index + 1));
}

static void model_arena(struct model *model)
{
    unsigned a = test_random(&model->random) % ARENAS;
    if (!model->present[a]) {
        uint32_t pages = SL_BUDDY_BLOCK_PAGES * (1 + a);
        assert_int_equal(
            sl_buddy_arena_add(&model->buddy, &model->arenas[a], pages, (void *)(uintptr_t)a), 0);
        model->present[a] = true;
        return;
    }
    for (uint32_t i = 0; i < model->arenas[a].page_count; i++)
        if (model->owner[a][i] != 0)
            return;
    sl_buddy_arena_remove(&model->buddy, &model->arenas[a]);
    model->present[a] = false;
}

static void random_against_model(void **state)
{
    static struct model model;
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        memset(&model, 0, sizeof(model));
        model.random = seed;
        sl_buddy_init(&model.buddy);
        for (unsigned step = 0; step < STEPS; step++) {
            /* Phases of filling and of emptying, so that it is full and empty many times. */
            bool filling = step / 1500 % 2 == 0;
            unsigned dice = test_random(&model.random) % 100;
            if (dice < 2)
                model_arena(&model);
            else if (dice < (filling ? 65u : 35u))
                model_alloc(&model);
            else
                model_free(&model);
            if (step % CHECK_EACH == 0)
                model_check(&model);
        }
        while (model.run_count > 0)
            model_free(&model);
        model_check(&model);
        for (unsigned a = 0; a < ARENAS; a++)
            if (model.present[a])
                sl_buddy_arena_remove(&model.buddy, &model.arenas[a]);
        assert_int_equal(model.buddy.free_pages, 0);
    }
}

/* 5 pages leave blocks of 1 and 2 of the 8 that they were cut from, at once. */
static void tail_comes_back_at_once(void **state)
{
    (void)state;
    struct sl_buddy buddy;
    struct sl_buddy_arena arena;
    struct sl_buddy_arena *found;
    uint32_t first;
    sl_buddy_init(&buddy);
    assert_int_equal(sl_buddy_arena_add(&buddy, &arena, SL_BUDDY_BLOCK_PAGES, NULL), 0);
    assert_true(sl_buddy_alloc(&buddy, 5, &found, &first));
    assert_int_equal(buddy.free_pages, SL_BUDDY_BLOCK_PAGES - 5);
    uint32_t other;
    assert_true(sl_buddy_alloc(&buddy, 1, &found, &other));
    assert_int_equal(other, first + 5);
    assert_true(sl_buddy_alloc(&buddy, 2, &found, &other));
    assert_int_equal(other, first + 6);
    assert_false(sl_buddy_alloc(&buddy, SL_BUDDY_BLOCK_PAGES, &found, &other));
    sl_buddy_free(&buddy, &arena, first, 8); /* one run of what was three */
    assert_int_equal(sl_buddy_largest_pages(&buddy), SL_BUDDY_BLOCK_PAGES);
    sl_buddy_arena_remove(&buddy, &arena);
    assert_int_equal(sl_buddy_largest_pages(&buddy), 0);
}

static void free_twice(void *argument)
{
    struct sl_buddy_arena *arena;
    uint32_t first;
    struct sl_buddy *buddy = argument;
    (void)sl_buddy_alloc(buddy, SL_BUDDY_BLOCK_PAGES, &arena, &first);
    sl_buddy_free(buddy, arena, first, SL_BUDDY_BLOCK_PAGES);
    sl_buddy_free(buddy, arena, first, SL_BUDDY_BLOCK_PAGES);
}

static void remove_while_used(void *argument)
{
    struct sl_buddy_arena *arena;
    uint32_t first;
    (void)sl_buddy_alloc(argument, 1, &arena, &first);
    sl_buddy_arena_remove(argument, arena);
}

static void broken_invariants_abort(void **state)
{
    (void)state;
    struct sl_buddy buddy;
    struct sl_buddy_arena arena;
    sl_buddy_init(&buddy);
    assert_int_equal(sl_buddy_arena_add(&buddy, &arena, SL_BUDDY_BLOCK_PAGES, NULL), 0);
    assert_true(test_aborts(free_twice, &buddy));
    assert_true(test_aborts(remove_while_used, &buddy));
    sl_buddy_arena_remove(&buddy, &arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_against_model),
        cmocka_unit_test(tail_comes_back_at_once),
        cmocka_unit_test(broken_invariants_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
