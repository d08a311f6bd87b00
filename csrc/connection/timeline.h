/* What is noted of items while a timeline is asked for (script/timeline.py). Without that, a note
   costs a look at a pointer. */
#ifndef EXECNET_TIMELINE_H
#define EXECNET_TIMELINE_H

#include "connection/itemqueue.h"

typedef enum {
    TIMELINE_SENT,
    TIMELINE_RECEIVED, /* by receive(), its wait included */
    TIMELINE_CALLED,   /* a callback with it */
    TIMELINE_WAITED,   /* for an item that did not come, or for the end */
} TimelineKind;

/* From here on notes are kept; may be called again. -1 with MemoryError. */
int timeline_start(ConnectionObject *connection);

/* What was noted since the last call, and is kept no longer: a tuple of how many notes were lost
   and a list of those that were not, each (kind, channel id, number of its first item, count of
   items, bytes, begun, ended, spent, thread), the times in seconds. NULL with an error. */
PyObject *timeline_take(ConnectionObject *connection);

void timeline_release(ConnectionObject *connection);

/* Nanoseconds of the clock that Python's time.monotonic() shows. */
int64_t timeline_clock(void);

/* Keep a note; see timeline_note. */
void timeline_keep(ItemQueueObject *queue, TimelineKind kind, int64_t begun, Py_ssize_t size);

/* When something begins that is to be noted; 0: nothing is. */
static inline int64_t
timeline_begin(const ConnectionObject *connection)
{
    return atomic_load_explicit(&connection->timeline, memory_order_acquire) == NULL
               ? 0
               : timeline_clock();
}

/* It has ended just now, for one item of `size` bytes. Attached. */
static inline void
timeline_note(ItemQueueObject *queue, TimelineKind kind, int64_t begun, Py_ssize_t size)
{
    if (begun != 0) {
        timeline_keep(queue, kind, begun, size);
    }
}

#endif
