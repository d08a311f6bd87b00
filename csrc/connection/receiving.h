/* Receiving: threads that wait for items, and the receiver. */
#ifndef EXECNET_RECEIVING_H
#define EXECNET_RECEIVING_H

#include "connection/itemqueue.h"

typedef enum {
    RECEIVED_ERROR = -1, /* a signal handler raised */
    RECEIVED_ITEM,
    RECEIVED_END,
    RECEIVED_TIMEOUT,
} Received;

/* The next item, or the queue's end, waited for until `deadline` (fdio_now's milliseconds, or
   FDIO_FOREVER) while signal handlers run. The item's object is the caller's. */
Received receive_item(ItemQueueObject *queue, int64_t deadline, ReadingItem *item);

/* RECEIVED_END when the queue has ended. */
Received receive_end(ItemQueueObject *queue, int64_t deadline);

/* The deadline of a timeout argument: None or seconds; -1 with an exception. */
int receive_deadline(PyObject *timeout, int64_t *deadline);

/* The receiver's life: read, and do what messages ask, until the end of input (EOFError) or an
   exception. Nobody reads when it returns, which is always with an exception. */
void receive_run(ConnectionObject *connection);

/* Whoever still waits stops waiting. */
void receive_stopped(ConnectionObject *connection);

/* Nobody will wait any more: free what is kept for that. */
void receive_release(ConnectionObject *connection);

#endif
