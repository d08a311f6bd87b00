/* The sentinel: a thread without Python that ends the process when its connection is lost. No
 * Python.h here. */
#ifndef EXECNET_SENTINEL_H
#define EXECNET_SENTINEL_H

#include <stdint.h>

typedef struct Sentinel Sentinel;

/* Watch the descriptors of a connection (duplicated here): `milliseconds` after its other end is
   gone, the process leaves. Where only writing tells that (on a socket), `probe` is called with
   `argument` to write something that disturbs nobody, else it is NULL. `alarm` is for
   sentinel_call_in. `unread` is called when input has come that nobody reads, with a
   descriptor of it that stays open during the call. NULL where no sentinel can be had. */
Sentinel *sentinel_start(int read_fd, int write_fd, int64_t milliseconds,
                         void (*probe)(void *argument), void (*alarm)(void *argument),
                         void (*unread)(void *argument, int read_fd), void *argument);

/* Have the thread call `alarm`, once, `milliseconds` from now. */
void sentinel_call_in(Sentinel *sentinel, int64_t milliseconds);

/* Let the process leave `milliseconds` from now, or sooner where the other end is or will be gone.
 */
void sentinel_leave_in(Sentinel *sentinel, int64_t milliseconds);

/* Let the process live, and end the thread. The functions above may still be called; they do
   nothing more. */
void sentinel_stop(Sentinel *sentinel);

/* After that, or after fork(), in the child, where the thread is not: free what belongs to it. */
void sentinel_forget(Sentinel *sentinel);

#endif
