/* The item queue: what waits to be received on one channel. It outlives the Channel object while a
   callback is set. Waiting for items is receiving.h's. */
#ifndef EXECNET_ITEMQUEUE_H
#define EXECNET_ITEMQUEUE_H

#include "connection/connection.h"

typedef struct {
    PyObject_HEAD
    ConnectionObject *connection;
    PyObject *channel_ref; /* weak */
    ReadingQueue
        arrived;         /* its items own their objects: the raw payload, or, if built, the value */
    PyObject *callback;  /* None: there is none */
    PyObject *endmarker; /* what the callback is called with last, or NO_ENDMARKER_WANTED */
    PyObject *errors;    /* list: the errors of the other side that were not told yet */
    PyObject *strconfig;
    LoadOptions options; /* strconfig, as the reader wants it */
    bool closed;         /* the channel is */
    bool dropped;        /* the Channel object is gone */
    bool is_calling;     /* the receiver is in the callback: the end marker comes after it */
    bool is_open;        /* counted among the connection's open channels */
} ItemQueueObject;

typedef enum {
    PUT_ERROR = -1, /* MemoryError */
    PUT_DONE,
    PUT_IS_FOR_CALLBACK, /* nothing was done */
} PutOutcome;

/* The machine that the queue is of; a forked child's comes to no lock of the parent's. */
Reading *itemqueue_reading(ItemQueueObject *queue);

/* Append an item (a reference is taken) and wake a thread that waits for it. */
PutOutcome itemqueue_put(ItemQueueObject *queue, PyObject *object, bool built);

/* An item that was taken, and could not be given to the thread that wanted it, is the next one
   again. The reference is the queue's from then on, and what is raised stays raised. */
void itemqueue_give_back(ItemQueueObject *queue, PyObject *object, bool built);

/* Let nothing more arrive, and wake all that wait. */
void itemqueue_end(ItemQueueObject *queue);

/* The Channel is gone. Where no callback is set, the queue is no longer found under `id` either. */
int itemqueue_drop(ItemQueueObject *queue, int32_t id);

#endif
