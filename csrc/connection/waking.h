/* How threads of a connection sleep and are woken: on a lock, or, while they poll, by its waker. */
#ifndef EXECNET_WAKING_H
#define EXECNET_WAKING_H

#include "connection/connection.h"

/* For a Sleeper; NULL with MemoryError. */
PyThread_type_lock waking_new(void);

/* Sleep, without the GIL, until woken, or `milliseconds` are over (FDIO_FOREVER: never), or a
   signal came. Whether the thread was woken. */
bool waking_sleep(PyThread_type_lock wakeup, int64_t milliseconds);

/* Take the wake-up that is on its way to a thread that has been told. */
void waking_take(const ConnectionObject *connection, const Sleeper *sleeper);

/* Wake those whom a transition has told. */
void waking_wake(const ConnectionObject *connection, Told told);

/* The connection's waker is made when a thread first waits. False where there are no descriptors
   left, or nobody waits any more: others read. */
bool waking_ensure_waker(ConnectionObject *connection);

/* When no thread can poll any more. */
void waking_close_waker(ConnectionObject *connection);

/* Whether the calling thread is the one that runs signal handlers; whether that one is. */
bool waking_is_main_thread(const ConnectionObject *connection);
bool waking_is_main(const ConnectionObject *connection, unsigned long ident);

/* Whether the threads that Python starts now may be green ones, all in this one: -1 with an
   exception. */
int waking_is_green(const ConnectionObject *connection);

/* Let other green threads run for `*delay` seconds, and lengthen the next delay; -1 with an
   exception, of a signal handler as well. */
int waking_doze(const ConnectionObject *connection, double *delay);

/* How long a thread may sleep until `deadline` without a look at signals: one that comes just
   before it falls asleep does not end its sleep, so the main thread looks now and then. */
int64_t waking_longest_sleep(bool is_main_thread, int64_t deadline);

int64_t waking_time_left(int64_t deadline);

#endif
