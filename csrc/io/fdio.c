/* System calls on descriptors, to be made without the GIL. */
#define _GNU_SOURCE
#include "io/fdio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif

/* Large enough that reader and writer seldom wait for each other (items of 600 KB and 1 MiB take
   1.2 to 1.6 times the CPU time through pipes of the size that they have anyway), small enough for
   the system's quota of pipe pages per user, and for the CPU's caches. */
enum { LARGE_PIPE = 256 * 1024 };

int64_t
fdio_now(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

#ifdef CLOCK_MONOTONIC_COARSE
int64_t
fdio_about_now(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
#else
int64_t
fdio_about_now(void)
{
    return fdio_now();
}
#endif

/* ---- waiting ---- */

enum {
    SPIN_NANOSECONDS = 50 * 1000,
    MOST_TO_SKIP = 1023,
};

static int64_t
nanoseconds_since(const struct timespec *start)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)(now.tv_sec - start->tv_sec) * 1000000000 + now.tv_nsec - start->tv_nsec;
}

FdioSpin
fdio_spin_new(void)
{
    const char *wanted = getenv("EXECNET_SPIN");

    return (FdioSpin){.never = wanted != NULL && strcmp(wanted, "0") == 0};
}

bool
fdio_spin_pays(FdioSpin *spin)
{
    if (spin->never) {
        return false;
    }
    if (spin->to_skip == 0) {
        return true;
    }
    spin->to_skip--;
    return false;
}

bool
fdio_spin(FdioSpin *spin, int fd)
{
    struct timespec start;
    int present;

    if (ioctl(fd, FIONREAD, &present) == 0 && present > 0) {
        return true;
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    while (nanoseconds_since(&start) < SPIN_NANOSECONDS && ioctl(fd, FIONREAD, &present) == 0) {
        if (present > 0) {
            spin->penalty /= 2;
            return true;
        }
    }
    if (spin->penalty < MOST_TO_SKIP) {
        spin->penalty = 2 * spin->penalty + 1;
    }
    spin->to_skip = spin->penalty;
    return false;
}

static int
poll_timeout(int64_t milliseconds)
{
    return milliseconds < 0 ? -1 : milliseconds > INT_MAX ? INT_MAX : (int)milliseconds;
}

FdioOutcome
fdio_wait(int fd, int waker, int64_t milliseconds)
{
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = waker, .events = POLLIN}};
    int ready = poll(fds, 2, poll_timeout(milliseconds));

    if (ready < 0) {
        return errno == EINTR || errno == EAGAIN ? FDIO_INTERRUPTED : FDIO_READY;
    }
    if (ready == 0) {
        return FDIO_TIMED_OUT;
    }
    return fds[0].revents != 0 ? FDIO_READY : FDIO_WOKEN;
}

bool
fdio_writable(int fd)
{
    return fdio_wait_for_room(fd, 0);
}

bool
fdio_wait_for_room(int fd, int milliseconds)
{
    struct pollfd one = {.fd = fd, .events = POLLOUT};

    return poll(&one, 1, milliseconds) > 0;
}

/* ---- wakers ---- */

bool
fdio_waker_open(FdioWaker *waker)
{
#ifdef __linux__
    waker->to_wait = waker->to_write = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return waker->to_wait >= 0;
#else
    int fds[2];

    if (pipe(fds) < 0) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        (void)fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        (void)fcntl(fds[i], F_SETFL, O_NONBLOCK);
    }
    waker->to_wait = fds[0];
    waker->to_write = fds[1];
    return true;
#endif
}

void
fdio_waker_close(const FdioWaker *waker)
{
    (void)close(waker->to_wait);
    if (waker->to_write != waker->to_wait) {
        (void)close(waker->to_write);
    }
}

void
fdio_wake(const FdioWaker *waker)
{
    uint64_t one = 1;

    /* It can only fail where enough wake-ups wait to be noticed. */
    (void)!write(waker->to_write, &one, sizeof one);
}

void
fdio_waker_drain(const FdioWaker *waker)
{
    uint64_t counts[8];

    while (read(waker->to_wait, counts, sizeof counts) == (ssize_t)sizeof counts) {
    }
}

void
fdio_waker_take(const FdioWaker *waker)
{
    struct pollfd one = {.fd = waker->to_wait, .events = POLLIN};

    while (poll(&one, 1, -1) <= 0) {
    }
    fdio_waker_drain(waker);
}

/* ---- reading ---- */

ssize_t
fdio_read(int fd, char *to, size_t size)
{
    for (;;) {
        ssize_t count = read(fd, to, size < SSIZE_MAX ? size : SSIZE_MAX);
        if (count >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) {
            return count;
        }
        struct pollfd one = {.fd = fd, .events = POLLIN};
        if (poll(&one, 1, -1) < 0) {
            return -1;
        }
    }
}

size_t
fdio_unread(int fd)
{
    int present;

    return ioctl(fd, FIONREAD, &present) == 0 && present > 0 ? (size_t)present : 0;
}

#ifdef __linux__

/* A pipe's bytes by way of another pipe. */
static ssize_t
peek_pipe(int fd, char *to, size_t size)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        return -1;
    }
    (void)fcntl(fds[1], F_SETPIPE_SZ, (int)size);
    ssize_t count = tee(fd, fds[1], size, SPLICE_F_NONBLOCK);
    if (count > 0) {
        count = read(fds[0], to, (size_t)count);
    }
    (void)close(fds[0]);
    (void)close(fds[1]);
    return count;
}

#else

static ssize_t
peek_pipe(int fd, char *to, size_t size)
{
    (void)fd;
    (void)to;
    (void)size;
    return -1;
}

#endif

size_t
fdio_peek(int fd, bool is_socket, char *to, size_t size)
{
    ssize_t count =
        is_socket ? recv(fd, to, size, MSG_PEEK | MSG_DONTWAIT) : peek_pipe(fd, to, size);

    return count > 0 ? (size_t)count : 0;
}

void
fdio_enlarge_pipe(int fd)
{
#ifdef F_SETPIPE_SZ
    if (fcntl(fd, F_GETPIPE_SZ) < LARGE_PIPE) {
        (void)fcntl(fd, F_SETPIPE_SZ, LARGE_PIPE);
    }
#else
    (void)fd;
#endif
}
