/* The sentinel: a thread without Python that ends the process when its connection is lost.

   Whatever the process does (a loop in C that holds the GIL, a wait that nobody ends, an exit that
   hangs), it is gone a while after its initiator is: the thread needs neither the GIL nor anything
   else but poll() and _exit(). So it is also the one that can answer where nobody else does. */
#define _GNU_SOURCE
#include "io/sentinel.h"

#include "io/fdio.h"

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
    PROBE_EVERY = 500, /* milliseconds */
    /* Code that runs here may close every descriptor, as daemons do: then nothing wakes the thread,
       and what it polls stays open until it looks again. */
    LOOK_EVERY = 2000,
    LOOK_AGAIN = 100, /* where input lies unread */
    STACK_SIZE = 64 * 1024,
    EXIT_STATUS = 1,
};

struct Sentinel {
    pthread_t thread;
    int read_fd, write_fd; /* its own duplicates */
    int64_t grace;
    void (*probe)(void *argument);
    void (*alarm)(void *argument);
    void (*unread)(void *argument, int read_fd);
    void *argument;
    FdioWaker waker;
    _Atomic int64_t leave_at; /* fdio_now's milliseconds, or NEVER */
    _Atomic int64_t call_at;  /* likewise */
    atomic_bool stopped;
    size_t unread_bytes; /* when it last looked, for the sentinel's thread only, */
    bool hung_up;        /* the input has ended, for the sentinel's thread only */
    atomic_bool lost;    /* nobody reads the output any more */
};

enum { WAKER, INPUT, OUTPUT, WATCHED };

/* Once the connection is lost, the process has its grace left, or less if it was to leave sooner.
 */
static void
lose(Sentinel *sentinel)
{
    int64_t at_latest = fdio_now() + sentinel->grace;
    int64_t leave_at = atomic_load(&sentinel->leave_at);

    while ((leave_at == NEVER || leave_at > at_latest) &&
           !atomic_compare_exchange_weak(&sentinel->leave_at, &leave_at, at_latest)) {
    }
}

/* The input ends when the initiator is gone, and also when it has nothing more to say, whether or
   not its goodbye was read by then. The output is broken only when the initiator is gone. */
static void
note_ends(Sentinel *sentinel, struct pollfd fds[WATCHED])
{
    if (fds[INPUT].revents != 0) {
        fds[INPUT].fd = -1;
        sentinel->hung_up = true;
    }
    if (fds[OUTPUT].revents != 0) {
        atomic_store(&sentinel->lost, true);
        lose(sentinel);
    }
}

/* Milliseconds until then, 0 when it is due, or NEVER. */
static int64_t
time_left(_Atomic int64_t *at)
{
    int64_t then = atomic_load(at), left = then - fdio_now();

    return then == NEVER ? NEVER : left > 0 ? left : 0;
}

static int64_t
sooner(int64_t milliseconds, int64_t left)
{
    return left != NEVER && left < milliseconds ? left : milliseconds;
}

/* Wait for something to note. The output is not watched before it is needed: a descriptor that is
   polled keeps open what others close. */
static bool
wait_for_ends(Sentinel *sentinel, struct pollfd fds[WATCHED], int64_t left)
{
    bool watches_output = (sentinel->hung_up || left != NEVER) && !atomic_load(&sentinel->lost);
    bool probes = sentinel->hung_up && watches_output && sentinel->probe != NULL;
    int64_t every = probes ? PROBE_EVERY : sentinel->unread_bytes > 0 ? LOOK_AGAIN : LOOK_EVERY;
    int64_t longest = sooner(every, left);

    fds[OUTPUT].fd = watches_output ? sentinel->write_fd : -1;
    if (probes) {
        sentinel->probe(sentinel->argument);
    }
    return poll(fds, WATCHED, (int)sooner(longest, time_left(&sentinel->call_at))) > 0;
}

/* As many bytes as at the last look: nobody reads them. */
static void
note_unread(Sentinel *sentinel)
{
    size_t bytes = fdio_unread(sentinel->read_fd);

    if (bytes > 0 && bytes == sentinel->unread_bytes) {
        sentinel->unread(sentinel->argument, sentinel->read_fd);
    }
    sentinel->unread_bytes = bytes;
}

static void *
sentinel_run(void *argument)
{
    Sentinel *sentinel = argument;
    struct pollfd fds[WATCHED] = {
        [WAKER] = {.fd = sentinel->waker.to_wait, .events = POLLIN},
        [INPUT] = {.fd = sentinel->read_fd, .events = POLLRDHUP},
        [OUTPUT] = {.fd = -1},
    };

    while (!atomic_load(&sentinel->stopped)) {
        int64_t left = time_left(&sentinel->leave_at);
        if (left == 0) {
            _exit(EXIT_STATUS);
        }
        if (time_left(&sentinel->call_at) == 0) {
            atomic_store(&sentinel->call_at, NEVER);
            sentinel->alarm(sentinel->argument);
            continue;
        }
        if (!wait_for_ends(sentinel, fds, left)) {
            note_unread(sentinel);
            continue;
        }
        if (fds[WAKER].revents != 0) {
            fdio_waker_drain(&sentinel->waker);
            fds[WAKER].fd = fds[WAKER].revents & POLLNVAL ? -1 : fds[WAKER].fd;
        }
        note_ends(sentinel, fds);
    }
    return NULL;
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
sentinel_start(int read_fd, int write_fd, int64_t milliseconds, void (*probe)(void *argument),
               void (*alarm)(void *argument), void (*unread)(void *argument, int read_fd),
               void *argument)
{
    Sentinel *sentinel = calloc(1, sizeof *sentinel);

    if (sentinel == NULL) {
        return NULL;
    }
    sentinel->grace = milliseconds;
    sentinel->probe = probe;
    sentinel->alarm = alarm;
    sentinel->unread = unread;
    sentinel->argument = argument;
    atomic_init(&sentinel->leave_at, NEVER);
    atomic_init(&sentinel->call_at, NEVER);
    atomic_init(&sentinel->stopped, false);
    atomic_init(&sentinel->lost, false);
    if (!fdio_waker_open(&sentinel->waker)) {
        free(sentinel);
        return NULL;
    }
    sentinel->read_fd = fcntl(read_fd, F_DUPFD_CLOEXEC, 3);
    sentinel->write_fd = fcntl(write_fd, F_DUPFD_CLOEXEC, 3);
    if (sentinel->read_fd < 0 || sentinel->write_fd < 0 || start_thread(sentinel) < 0) {
        sentinel_forget(sentinel);
        return NULL;
    }
    return sentinel;
}

void
sentinel_leave_in(Sentinel *sentinel, int64_t milliseconds)
{
    atomic_store(&sentinel->leave_at, fdio_now() + milliseconds);
    if (atomic_load(&sentinel->lost)) {
        lose(sentinel);
    }
    fdio_wake(&sentinel->waker);
}

void
sentinel_call_in(Sentinel *sentinel, int64_t milliseconds)
{
    atomic_store(&sentinel->call_at, fdio_now() + milliseconds);
    fdio_wake(&sentinel->waker);
}

static void
close_duplicates(Sentinel *sentinel)
{
    (void)close(sentinel->read_fd);
    (void)close(sentinel->write_fd);
    sentinel->read_fd = sentinel->write_fd = -1;
}

void
sentinel_stop(Sentinel *sentinel)
{
    if (!atomic_exchange(&sentinel->stopped, true)) {
        fdio_wake(&sentinel->waker);
        (void)pthread_join(sentinel->thread, NULL);
        close_duplicates(sentinel);
    }
}

void
sentinel_forget(Sentinel *sentinel)
{
    fdio_waker_close(&sentinel->waker);
    close_duplicates(sentinel);
    free(sentinel);
}
