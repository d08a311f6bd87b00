/* The part of a channel that runs per item. */
#ifndef EXECNET_CHANNEL_H
#define EXECNET_CHANNEL_H

#include "connection/itemqueue.h"

typedef struct {
    PyObject_HEAD
    PyObject *gateway;
    ItemQueueObject *queue; /* NULL where the connection is not one of the C core */
    PyObject *weakrefs;
    int id;
    bool closed; /* without a queue */
} ChannelObject;

#endif
