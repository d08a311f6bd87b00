/* Memory kept from one value to the next, for threads that no GIL keeps apart. A thread takes it
   out of its place, uses it alone, and puts it back; where there is none it makes some. */
#ifndef EXECNET_SPARE_H
#define EXECNET_SPARE_H

#include "state.h"

#ifdef Py_GIL_DISABLED
#include <stdatomic.h>

enum {
    SPARE_PLACES = 16,
    SPARE_APART = 64, /* bytes, so that threads do not wait for each other's caches */
};

/* Begins as zeros. */
typedef struct {
    union {
        _Atomic(void *) memory; /* NULL: a thread has it, or there was none yet */
        char apart[SPARE_APART];
    } places[SPARE_PLACES];
} Spares;

/* Threads share a place by chance, and then only do without. */
static inline _Atomic(void *) *
spare_place(Spares *spares)
{
    uint64_t mixed = (uint64_t)PyThread_get_thread_ident() * UINT64_C(0x9e3779b97f4a7c15);

    return &spares->places[mixed >> 60].memory;
}

static inline void *
spare_take(Spares *spares)
{
    return atomic_exchange_explicit(spare_place(spares), NULL, memory_order_acquire);
}

/* The caller frees what it gets back: one is enough. */
static inline void *
spare_put(Spares *spares, void *memory)
{
    void *none = NULL;

    return atomic_compare_exchange_strong_explicit(spare_place(spares), &none, memory,
                                                   memory_order_release, memory_order_relaxed)
               ? NULL
               : memory;
}

/* When no thread uses them any more: the next one to be freed, NULL at last. */
static inline void *
spare_next(Spares *spares)
{
    for (int i = 0; i < SPARE_PLACES; i++) {
        void *memory = atomic_exchange(&spares->places[i].memory, NULL);
        if (memory != NULL) {
            return memory;
        }
    }
    return NULL;
}
#endif

#endif
