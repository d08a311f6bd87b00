/* How a process knows that it was forked: by memory that does not go with it. */
#define _GNU_SOURCE
#include "io/forked.h"

#include <sys/mman.h>

#ifdef MADV_WIPEONFORK

enum { SIZE = sizeof(atomic_bool) };

ForkMark
fork_mark_new(void)
{
    ForkMark mark = {NULL};
    void *page = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED) {
        return mark;
    }
    if (madvise(page, SIZE, MADV_WIPEONFORK) < 0) {
        (void)munmap(page, SIZE);
        return mark;
    }
    mark.is_settled = page;
    fork_settle(&mark);
    return mark;
}

void
fork_mark_free(ForkMark *mark)
{
    if (mark->is_settled != NULL) {
        (void)munmap((void *)mark->is_settled, SIZE);
        mark->is_settled = NULL;
    }
}

#else

ForkMark
fork_mark_new(void)
{
    return (ForkMark){NULL};
}

void
fork_mark_free(ForkMark *mark)
{
    (void)mark;
}

#endif
