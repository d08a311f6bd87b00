/* The item queue: what waits to be received on one channel. It outlives the Channel object while a
   callback is set. Waiting for items is receiving.h's. */
#ifndef EXECNET_ITEMQUEUE_H
#define EXECNET_ITEMQUEUE_H

#include "connection/connection.h"

typedef struct ItemQueueObject {
    PyObject_HEAD
    ConnectionObject *connection;
    int32_t id;            /* the channel's */
    PyObject *channel_ref; /* weak */
    /* The machine's. Its items own their objects: the raw payload, or, if built, the value. Its
       callback owns the function, and the end marker, which may be NO_ENDMARKER_WANTED. */
    ReadingQueue arrived;
    PyObject *errors; /* list: the errors of the other side that were not told yet */
    PyObject *strconfig;
    LoadOptions options;      /* strconfig, as the reader wants it */
    atomic_bool closed;       /* the channel is */
    atomic_bool write_closed; /* this side sends nothing more */
    atomic_bool dropped;      /* the Channel object is gone */
    atomic_bool is_open;      /* counted among the connection's open channels */
    uint32_t sent, received;  /* the items that timeline.c has numbered */
#ifdef Py_GIL_DISABLED
    struct ItemQueueObject *next_dead; /* dispatch.c */
#endif
} ItemQueueObject;

/* What there is on a queue at this moment. */
typedef struct {
    size_t count;
    bool ended;
    ReadingCallback callback;
} QueueSight;

static inline QueueSight
itemqueue_sight(Reading *reading, const ReadingQueue *arrived)
{
    LOCK_WITHOUT_GIL(reading);
    QueueSight sight = {arrived->count, arrived->ended, arrived->callback};
    UNLOCK_WITHOUT_GIL(reading);
    return sight;
}

typedef enum {
    PUT_ERROR = -1, /* MemoryError */
    PUT_DONE,
    PUT_IS_FOR_CALLBACK, /* nothing was done */
} PutOutcome;

/* The machine that the queue is of; a forked child's comes to no lock of the parent's. */
Reading *itemqueue_reading(const ItemQueueObject *queue);

static inline QueueSight
itemqueue_look(const ItemQueueObject *queue)
{
#ifdef Py_GIL_DISABLED
    return itemqueue_sight(itemqueue_reading(queue), &queue->arrived);
#else
    return itemqueue_sight(NULL, &queue->arrived);
#endif
}

static inline bool
itemqueue_has_callback(const ItemQueueObject *queue)
{
    return itemqueue_look(queue).callback != CALLBACK_NONE;
}

/* How strings are read. */
static inline LoadOptions
itemqueue_options(const ItemQueueObject *queue)
{
    Reading *reading = &queue->connection->reading;

    LOCK_WITHOUT_GIL(reading);
    LoadOptions options = queue->options;
    UNLOCK_WITHOUT_GIL(reading);
    return options;
}

/* Append an item (a reference is taken) and wake a thread that waits for it. */
PutOutcome itemqueue_put(ItemQueueObject *queue, PyObject *object, bool built);

/* As that, by the receiver: with PUT_IS_FOR_CALLBACK it is calling the function, which is its own,
   until reading_called. */
PutOutcome itemqueue_put_to_call(ItemQueueObject *queue, PyObject *object, bool built,
                                 PyObject **function);

/* An item that was taken, and could not be given to the thread that wanted it, is the next one
   again. The reference is the queue's from then on, and what is raised stays raised. */
void itemqueue_give_back(ItemQueueObject *queue, PyObject *object, bool built);

/* Let nothing more arrive, and wake all that wait. */
void itemqueue_end(ItemQueueObject *queue);

/* As that; unless this side may still send, it is no longer found under `id` before whoever waits
   is woken. 0 where there is a callback to be told, and nothing was done, 1 if it is done, -1 with
   MemoryError. */
int itemqueue_end_plain(ItemQueueObject *queue, int32_t id, bool may_send);

/* Let go of the callback, if there is one. */
void itemqueue_abandon_callback(ItemQueueObject *queue);

/* The Channel is gone. Unless its callback waits for more, the queue is no longer found under `id`
   either. */
int itemqueue_drop(ItemQueueObject *queue, int32_t id);

#endif
