/* Threads that may sleep until another one tells them to go on, and the lock of the two machines
   (reading.h, writing.h) that know who sleeps. No Python.h here.

   A transition of a machine never wakes anybody itself: it gathers those it tells in a list, and
   the caller wakes them when the lock is free again (sleep_wake_all). So being told comes before
   being woken, and a thread that has been told, but slept no longer, takes its wake-up before it
   goes on: nobody wakes a thread that is not there any more. */
#ifndef EXECNET_SLEEPER_H
#define EXECNET_SLEEPER_H

#include <stdbool.h>
#include <stddef.h>

#ifdef EXECNET_MODEL
/* The explorer of testing/model has one thread, and looks that no lock is taken twice. */
typedef struct {
    bool taken;
} Mutex;
void mutex_init(Mutex *mutex);
void mutex_lock(Mutex *mutex);
void mutex_unlock(Mutex *mutex);
#else
#include <pthread.h>
typedef pthread_mutex_t Mutex;
static inline void
mutex_init(Mutex *mutex)
{
    (void)pthread_mutex_init(mutex, NULL);
}
static inline void
mutex_lock(Mutex *mutex)
{
    (void)pthread_mutex_lock(mutex);
}
static inline void
mutex_unlock(Mutex *mutex)
{
    (void)pthread_mutex_unlock(mutex);
}
#endif

typedef struct Sleeper {
    void *wakeup; /* the caller's: what it sleeps on */
    struct Sleeper *next_told;
    bool told;     /* a wake-up is on its way to it, or there */
    bool by_waker; /* it is the connection's waker: the thread polls a descriptor */
} Sleeper;

/* Those told by one transition, in order. Begins as NULL. */
typedef Sleeper *Told;

static inline void
sleeper_tell(Sleeper *sleeper, bool by_waker, Told *told)
{
    while (*told != NULL) {
        told = &(*told)->next_told;
    }
    sleeper->told = true;
    sleeper->by_waker = by_waker;
    sleeper->next_told = NULL;
    *told = sleeper;
}

#endif
