/* The part of a channel that runs per item. */
#ifndef EXECNET_CHANNEL_H
#define EXECNET_CHANNEL_H

#include "connection/itemqueue.h"

typedef struct {
    PyObject_HEAD
    PyObject *gateway;      /* without a GIL, the object's critical section guards it */
    ItemQueueObject *queue; /* set once, before others have the channel; NULL where the connection
                               is not one of the C core */
    PyObject *weakrefs;
    int id;
    atomic_bool closed; /* without a queue */
} ChannelObject;

#endif
