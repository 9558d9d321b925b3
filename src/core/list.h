/* An intrusive doubly linked list with a sentinel. Not thread-safe: a list belongs to one reactor.
 */
#ifndef SL_CORE_LIST_H
#define SL_CORE_LIST_H

#include "core/base.h"

struct sl_list {
    struct sl_list *next;
    struct sl_list *previous;
};

static inline void sl_list_init(struct sl_list *list)
{
    list->next = list;
    list->previous = list;
}

static inline bool sl_list_is_empty(const struct sl_list *list)
{
    return list->next == list;
}

static inline void sl_list_insert_before(struct sl_list *position, struct sl_list *node)
{
    node->next = position;
    node->previous = position->previous;
    position->previous->next = node;
    position->previous = node;
}

/* Appends at the tail. */
static inline void sl_list_append(struct sl_list *list, struct sl_list *node)
{
    sl_list_insert_before(list, node);
}

static inline void sl_list_prepend(struct sl_list *list, struct sl_list *node)
{
    sl_list_insert_before(list->next, node);
}

/* Unlinks and leaves the node as an empty list, so that removing twice is harmless. */
static inline void sl_list_remove(struct sl_list *node)
{
    node->previous->next = node->next;
    node->next->previous = node->previous;
    sl_list_init(node);
}

static inline struct sl_list *sl_list_first(struct sl_list *list)
{
    return sl_list_is_empty(list) ? NULL : list->next;
}

/* Removes and answers the head, or NULL. */
static inline struct sl_list *sl_list_pop(struct sl_list *list)
{
    struct sl_list *node = sl_list_first(list);
    if (node != NULL)
        sl_list_remove(node);
    return node;
}

/* Moves every node of `from` to the tail of `to`. */
static inline void sl_list_splice(struct sl_list *to, struct sl_list *from)
{
    if (sl_list_is_empty(from))
        return;
    from->next->previous = to->previous;
    to->previous->next = from->next;
    from->previous->next = to;
    to->previous = from->previous;
    sl_list_init(from);
}

#define sl_list_entry(node, type, member) sl_container_of(node, type, member)

/* Safe against removal of the current node. */
#define sl_list_for_each(node, list)                                                               \
    for (struct sl_list *node = (list)->next, *node##_next = node->next; node != (list);           \
         node = node##_next, node##_next = node->next)

#endif
