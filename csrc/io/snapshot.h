/* What a copy of this process tells of it. No Python.h here. */
#ifndef EXECNET_SNAPSHOT_H
#define EXECNET_SNAPSHOT_H

#include <stddef.h>

/* Have a copy of the process call `tell`, which does nothing that is not allowed in a signal
   handler, and return how much of what it writes to `fd` came within `milliseconds`, at most
   `size`. Whatever becomes of the copy, this process goes on. */
size_t snapshot_take(void (*tell)(int fd, void *argument), void *argument, char *to, size_t size,
                     int milliseconds);

#endif
