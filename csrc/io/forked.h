/* Whether this process is a forked child that has not been settled in yet. No Python.h here.

   Python code runs in a forked child before any hook of ours: finalizers of what other threads
   had, and whatever the hooks before ours let go of. What belongs to the parent is not to be used
   even then. */
#ifndef EXECNET_FORKED_H
#define EXECNET_FORKED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* A page of memory that the system gives a forked child empty; NULL where it can't. */
typedef struct {
    atomic_bool *is_settled;
} ForkMark;

ForkMark fork_mark_new(void);
void fork_mark_free(ForkMark *mark);

static inline bool
fork_is_unsettled(const ForkMark *mark)
{
    return mark->is_settled != NULL &&
           !atomic_load_explicit(mark->is_settled, memory_order_relaxed);
}

static inline void
fork_settle(ForkMark *mark)
{
    if (mark->is_settled != NULL) {
        atomic_store(mark->is_settled, true);
    }
}

#endif
