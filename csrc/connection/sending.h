/* Sending: messages of threads that wait until they are written, and of finalizers, which don't. */
#ifndef EXECNET_SENDING_H
#define EXECNET_SENDING_H

#include "connection/connection.h"

/* One piece of a message. Where the helper has to finish the write, the piece is copied, or its
   owner kept. */
typedef struct {
    const char *bytes;
    size_t size;
    PyObject *owner; /* may be NULL */
} Piece;

/* Write a message whole. OSError if the connection is closed; what a signal handler raised, after
   which the message has either not begun to be written, or is written to its end all the same. */
int send_message(ConnectionObject *connection, const Piece *pieces, int count);

/* Send a message without payload, without ever waiting; -1 with MemoryError. */
int send_soon(ConnectionObject *connection, int code, int32_t channel);

/* The same without the GIL, where it can be lost for want of memory. */
void send_soon_without_gil(ConnectionObject *connection, int code, int32_t channel);

/* Write what finalizers left, as far as that takes no waiting and nobody else is about to. */
void send_what_is_left(ConnectionObject *connection);

/* Without the GIL: write `piece` if that takes no waiting. Whether it is written; *left: there is
   something for send_what_is_left. */
bool send_now(ConnectionObject *connection, struct iovec *piece, bool *left);

/* Without the GIL: write something that the other side drops, to learn whether there is one. */
void send_probe(void *connection);

/* Accept no message any more. Whether, after `milliseconds` at most, no thread uses the descriptor,
   so that it may be closed. */
bool send_end(ConnectionObject *connection, int64_t milliseconds);

/* Free what was never written. */
void send_release(ConnectionObject *connection);

#endif
