/* The sentinel: a thread without Python that ends the process when its connection is lost.

   Whatever the process does (a loop in C that holds the GIL, a wait that nobody ends, an exit that
   hangs), it is gone a while after its initiator is: the thread needs neither the GIL nor anything
   else but poll() and _exit(). */
#define _GNU_SOURCE
#include "sentinel.h"

#include "fdio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif

enum {
    NEVER = -1,
    STACK_SIZE = 64 * 1024,
    EXIT_STATUS = 1,
};

struct Sentinel {
    pthread_t thread;
    int fd;
    int64_t grace;
    FdioKick kick;
    _Atomic int64_t leave_at; /* fdio_now's milliseconds, or NEVER */
    atomic_bool stopped;
};

/* Wait for the kick, or with an fd for its hangup; false: neither came in time. */
static bool
wait_for_kick(const Sentinel *sentinel, int fd, int64_t milliseconds, bool *hung_up)
{
    struct pollfd fds[2] = {
        {.fd = sentinel->kick.to_wait, .events = POLLIN},
        {.fd = fd, .events = POLLRDHUP},
    };
    int timeout = milliseconds < 0 ? -1 : milliseconds > 1000000 ? 1000000 : (int)milliseconds;
    int ready = poll(fds, fd < 0 ? 1 : 2, timeout);

    *hung_up = ready > 0 && fds[1].revents != 0 && fd >= 0;
    return ready > 0 && fds[0].revents != 0;
}

static void *
sentinel_run(void *argument)
{
    Sentinel *sentinel = argument;
    int fd = sentinel->fd;

    for (;;) {
        int64_t leave_at = atomic_load(&sentinel->leave_at);
        int64_t left = leave_at == NEVER ? NEVER : leave_at - fdio_now();
        if (leave_at != NEVER && left <= 0) {
            _exit(EXIT_STATUS);
        }
        bool hung_up;
        if (wait_for_kick(sentinel, fd, left, &hung_up)) {
            fdio_kick_drain(&sentinel->kick);
            if (atomic_load(&sentinel->stopped)) {
                return NULL;
            }
        }
        if (hung_up) {
            fd = -1;
            if (leave_at == NEVER) {
                int64_t expected = NEVER;
                (void)atomic_compare_exchange_strong(&sentinel->leave_at, &expected,
                                                     fdio_now() + sentinel->grace);
            }
        }
    }
}

/* Signals are for the threads of Python. */
static int
start_thread(Sentinel *sentinel)
{
    pthread_attr_t attributes;
    sigset_t all, before;

    if (pthread_attr_init(&attributes) != 0) {
        return -1;
    }
    (void)pthread_attr_setstacksize(&attributes, STACK_SIZE);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&sentinel->thread, &attributes, sentinel_run, sentinel);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return error == 0 ? 0 : -1;
}

Sentinel *
sentinel_start(int fd, int64_t milliseconds)
{
    Sentinel *sentinel = calloc(1, sizeof *sentinel);

    if (sentinel == NULL) {
        return NULL;
    }
    sentinel->grace = milliseconds;
    atomic_init(&sentinel->leave_at, NEVER);
    atomic_init(&sentinel->stopped, false);
    sentinel->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (sentinel->fd < 0) {
        free(sentinel);
        return NULL;
    }
    if (!fdio_kick_open(&sentinel->kick)) {
        (void)close(sentinel->fd);
        free(sentinel);
        return NULL;
    }
    if (start_thread(sentinel) < 0) {
        sentinel_forget(sentinel);
        return NULL;
    }
    return sentinel;
}

void
sentinel_leave_in(Sentinel *sentinel, int64_t milliseconds)
{
    atomic_store(&sentinel->leave_at, fdio_now() + milliseconds);
    fdio_kick(&sentinel->kick);
}

void
sentinel_stop(Sentinel *sentinel)
{
    atomic_store(&sentinel->stopped, true);
    fdio_kick(&sentinel->kick);
    (void)pthread_join(sentinel->thread, NULL);
    sentinel_forget(sentinel);
}

void
sentinel_forget(Sentinel *sentinel)
{
    fdio_kick_close(&sentinel->kick);
    (void)close(sentinel->fd);
    free(sentinel);
}
