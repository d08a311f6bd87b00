/* The answer to a request for the stacks of all threads while no Python code can give it. */
#ifndef EXECNET_STACKS_H
#define EXECNET_STACKS_H

#include "connection/connection.h"

/* With the GIL: have what it takes to look at the threads without it, where this Python needs to be
   asked before. -1 with an exception. */
int stacks_prepare(ConnectionObject *connection);

/* Without the GIL, in the reader role: have the questions answered that are among what was read.
   Whether that was all there was. */
bool stacks_ask(ConnectionObject *connection);

/* Likewise: whether a question has begun to come, and can be read to its end without the GIL. */
bool stacks_are_partly_asked_for(const ConnectionObject *connection);

/* The sentinel's: answer the question, unless Python code does. */
void stacks_answer(void *connection);

/* The sentinel's: answer a question that lies unread. */
void stacks_search(void *connection, int read_fd);

/* Whether that was done to the question on this channel. */
bool stacks_were_told(ConnectionObject *connection, int32_t channel);

/* With the GIL: who still waits for it to answer is not to. */
void stacks_release(ConnectionObject *connection);

#endif
