/* What becomes of a message that was read. */
#ifndef EXECNET_DISPATCH_H
#define EXECNET_DISPATCH_H

#include "connection/itemqueue.h"

typedef enum {
    DISPATCH_READ, /* all that was read is done: more is needed, or `broken` says why none comes */
    DISPATCH_PYTHON, /* a message that takes Python code is next */
} DispatchOutcome;

/* With the role: do what the whole messages ask that have been read, as far as that takes no Python
   code. */
DispatchOutcome dispatch_plain(ConnectionObject *connection);

/* The receiver handles the message at which dispatch_plain stopped. -1 with an exception.
   reading_receiver_back tells who has the role afterwards. */
int dispatch_python(ConnectionObject *connection);

/* With the role, without the GIL: whether there is something to dispatch before more is read. */
bool dispatch_is_due(const ConnectionObject *connection);

#ifdef Py_GIL_DISABLED
/* A queue is to be taken apart. Whether that is left to the receiver. */
bool dispatch_keeps(ItemQueueObject *queue);

/* The receiver, about to run Python code, takes apart what was left to it. */
void dispatch_let_go(ConnectionObject *connection);
#else
#define dispatch_keeps(queue) ((void)(queue), false)
#define dispatch_let_go(connection) ((void)(connection))
#endif

/* Raise what `broken` says. */
void dispatch_set_error(ConnectionObject *connection);

#endif
