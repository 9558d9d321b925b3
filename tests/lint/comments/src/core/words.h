/* The file says what it is for. */
#ifndef SL_WORDS_H
#define SL_WORDS_H

/* Explained. */
int sl_explained(int a);
int sl_of_its_group(int a);

int sl_unexplained(int a);

/* ---- a section ---- */

int sl_in_a_section(int a,
                    int b);

void sl_also_unexplained(void (*done)(void *argument),
                         void *argument);

struct sl_table {
    int (*explained_by_its_struct)(int a);
};

static inline int sl_inline(int a)
{
    return sl_explained(a);
}

#endif
