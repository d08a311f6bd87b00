/* Which tasks run, to be told without the GIL. */
#ifndef EXECNET_TASKS_H
#define EXECNET_TASKS_H

#include "connection/connection.h"

/* The calling thread begins the task of that channel; `function` may be NULL. -1 with MemoryError.
 */
int tasks_begin(ConnectionObject *connection, int32_t channel, const char *file,
                const char *function);

/* It has ended. */
void tasks_end(ConnectionObject *connection, int32_t channel);

/* Without the GIL: write a line for each task, as far as `size` goes; how much that is. */
size_t tasks_describe(ConnectionObject *connection, char *to, size_t size);

/* In a forked child: the threads of the tasks are not there, nor the one that may have held the
 * lock. */
void tasks_disown(ConnectionObject *connection);

void tasks_release(ConnectionObject *connection);

#endif
