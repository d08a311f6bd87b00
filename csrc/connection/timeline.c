/* What is noted of items while a timeline is asked for.

   Items of one thread that follow each other closely on a channel are one note, a run: a stream
   gives a note each millisecond, not one each microsecond, and what is alone stays alone. Each
   thread has a run that may go on, as far as there is room for threads. When one is broken off it
   goes to the notes, which keep a limited number until somebody takes them; what comes then is
   counted as lost. Items keep their numbers: of one channel, on both sides the same.

   The GIL guards it all; where there is none, the lock of the reading machine. */
#include "connection/timeline.h"

#include <time.h>

enum {
    MOST_NOTES = 1 << 15,
    MOST_RUNS = 8,
    /* Nanoseconds: between two items of a run, and of all of it. */
    LONGEST_PAUSE = 100 * 1000,
    LONGEST_RUN = 1000 * 1000,
};

typedef struct {
    TimelineKind kind;
    int32_t channel;
    uint32_t first, count;
    int64_t bytes;
    int64_t begun, ended, spent;
    unsigned long thread;
} Note;

struct Timeline {
    uint64_t lost;
    size_t count;
    Note runs[MOST_RUNS]; /* a count of 0: there is none */
    Note notes[MOST_NOTES];
};

int64_t
timeline_clock(void)
{
    struct timespec now;

#ifdef __APPLE__
    (void)clock_gettime(CLOCK_UPTIME_RAW, &now);
#else
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int
timeline_start(ConnectionObject *connection)
{
    if (atomic_load(&connection->timeline) != NULL) {
        return 0;
    }
    Timeline *none = NULL, *timeline = PyMem_RawCalloc(1, sizeof *timeline);
    if (timeline == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (!atomic_compare_exchange_strong(&connection->timeline, &none, timeline)) {
        PyMem_RawFree(timeline);
    }
    return 0;
}

void
timeline_release(ConnectionObject *connection)
{
    PyMem_RawFree(atomic_exchange(&connection->timeline, NULL));
}

/* ---- keeping ---- */

static void
end_run(Timeline *timeline, Note *run)
{
    if (run->count == 0) {
        return;
    }
    if (timeline->count < MOST_NOTES) {
        timeline->notes[timeline->count++] = *run;
    } else {
        timeline->lost++;
    }
    run->count = 0;
}

static bool
goes_on(const Note *run, const Note *next)
{
    return run->count > 0 && run->thread == next->thread && run->kind == next->kind &&
           run->channel == next->channel && run->first + run->count == next->first &&
           next->begun - run->ended < LONGEST_PAUSE && next->ended - run->begun < LONGEST_RUN;
}

/* The number that the next item has of those sent, or of those that arrived, on its channel. */
static uint32_t
next_number(ItemQueueObject *queue, TimelineKind kind)
{
    switch (kind) {
    case TIMELINE_SENT:
        return queue->sent++;
    case TIMELINE_RECEIVED:
    case TIMELINE_CALLED:
        return queue->received++;
    default:
        return 0;
    }
}

void
timeline_keep(ItemQueueObject *queue, TimelineKind kind, int64_t begun, Py_ssize_t size)
{
    Timeline *timeline = atomic_load(&queue->connection->timeline);
    int64_t ended = timeline_clock();
    Note next = {
        .kind = kind,
        .channel = queue->id,
        .count = 1,
        .bytes = size,
        .begun = begun,
        .ended = ended,
        .spent = ended - begun,
        .thread = PyThread_get_thread_ident(),
    };
    /* Idents are addresses on most systems. */
    Note *run = &timeline->runs[(next.thread >> 12 ^ next.thread >> 20) % MOST_RUNS];

    LOCK_WITHOUT_GIL(&queue->connection->reading);
    next.first = next_number(queue, kind);
    if (goes_on(run, &next)) {
        run->count++;
        run->bytes += size;
        run->ended = ended;
        run->spent += next.spent;
    } else {
        end_run(timeline, run);
        *run = next;
    }
    UNLOCK_WITHOUT_GIL(&queue->connection->reading);
}

/* ---- taking ---- */

/* A copy of the notes, which are no longer kept; NULL with MemoryError. */
static Note *
move_out(Reading *reading, Timeline *timeline, size_t *count, uint64_t *lost)
{
    Note *notes = PyMem_RawMalloc((MOST_NOTES + MOST_RUNS) * sizeof *notes);

    (void)reading;
    if (notes == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    LOCK_WITHOUT_GIL(reading);
    *lost = timeline->lost;
    *count = timeline->count;
    memcpy(notes, timeline->notes, timeline->count * sizeof *notes);
    for (int i = 0; i < MOST_RUNS; i++) {
        if (timeline->runs[i].count > 0) {
            notes[(*count)++] = timeline->runs[i];
            timeline->runs[i].count = 0;
        }
    }
    timeline->lost = 0;
    timeline->count = 0;
    UNLOCK_WITHOUT_GIL(reading);
    return notes;
}

static PyObject *
as_tuple(const Note *note)
{
    return Py_BuildValue("iikkLdddk", (int)note->kind, (int)note->channel,
                         (unsigned long)note->first, (unsigned long)note->count,
                         (long long)note->bytes, (double)note->begun * 1e-9,
                         (double)note->ended * 1e-9, (double)note->spent * 1e-9, note->thread);
}

PyObject *
timeline_take(ConnectionObject *connection)
{
    Timeline *timeline = atomic_load(&connection->timeline);
    size_t count = 0;
    uint64_t lost = 0;
    Note *notes = NULL;

    if (timeline != NULL &&
        (notes = move_out(&connection->reading, timeline, &count, &lost)) == NULL) {
        return NULL;
    }
    PyObject *list = PyList_New(0);
    for (size_t i = 0; i < count && list != NULL; i++) {
        PyObject *tuple = as_tuple(&notes[i]);
        if (tuple == NULL || PyList_Append(list, tuple) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(tuple);
    }
    PyMem_RawFree(notes);
    return list == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)lost, list);
}
