/* A large payload on its way into an object of its own: it is read to where it stays. */
#ifndef EXECNET_LARGE_H
#define EXECNET_LARGE_H

#include "connection/connection.h"

/* Whether a partial frame is one that should be read so, and enough of it is there to tell how. */
bool large_is_due(const Frame *frame);

/* Begin: what is there of the frame moves to its place. -1 with MemoryError. */
int large_begin(ConnectionObject *connection, Frame *frame);

/* Bytes still to be read, to bytes + filled. */
size_t large_missing(const LargePayload *large);

/* All is read. -1 with MemoryError. */
int large_complete(LargePayload *large);

#endif
