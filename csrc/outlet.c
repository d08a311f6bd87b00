/* Writing: whole or in parts, without a SIGPIPE, large pieces through a pipe without a copy.

   Of a large piece, all but the end is lent to the pipe (vmsplice): the pipe refers to its memory,
   and the reader copies from there. The end, as long as the pipe is, is copied into it. Once the
   pipe has taken that, nothing lent is left in it, and the memory is free for other uses. */
#define _GNU_SOURCE
#include "outlet.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fdio.h"

enum {
    /* While one process writes to a pipe, the other one can't read: more at once is slower. */
    PIPE_STRETCH = 64 * 1024,
    /* A connection with such a piece lends. */
    HUGE_PIECE = 512 * 1024,
};

Outlet
outlet_on(int fd, bool lends)
{
    struct stat status;
    mode_t kind = fstat(fd, &status) == 0 ? status.st_mode : 0;

    return (Outlet){.fd = fd, .is_socket = S_ISSOCK(kind), .lends = lends && S_ISFIFO(kind)};
}

/* ---- lending ---- */

#ifdef __linux__

/* How much of the next piece is to be lent. */
static size_t
lendable(Outlet *outlet, const struct iovec *piece)
{
    if (!outlet->lends || piece->iov_len < (outlet->capacity > 0 ? outlet->capacity : HUGE_PIECE)) {
        return 0;
    }
    if (outlet->capacity == 0) {
        fdio_enlarge_pipe(outlet->fd);
        int capacity = fcntl(outlet->fd, F_GETPIPE_SZ);
        if (capacity <= 0) {
            outlet->lends = false;
            return 0;
        }
        outlet->capacity = (size_t)capacity;
    }
    size_t size = piece->iov_len - outlet->capacity;
    return piece->iov_len < outlet->capacity || size < PIPE_STRETCH ? 0 : size;
}

static ssize_t
lend(Outlet *outlet, const struct iovec *piece, size_t size)
{
    struct iovec part = {piece->iov_base, size};
    ssize_t count = vmsplice(outlet->fd, &part, 1, 0);

    if (count > 0) {
        outlet->lent = true;
        outlet->behind_lent = 0;
    } else if (errno != EPIPE && errno != EINTR && errno != EAGAIN) {
        /* Not every system that calls itself Linux can do this. */
        outlet->lends = false;
        errno = EINTR;
    }
    return count;
}

/* All is written: wait until nothing lent is left in the pipe. It is gone by then, unless the
   reader has enlarged the pipe meanwhile. */
static OutletOutcome
await_lent(Outlet *outlet)
{
    int unread;

    while (outlet->lent && ioctl(outlet->fd, FIONREAD, &unread) == 0 &&
           (size_t)unread > outlet->behind_lent) {
        struct pollfd no_reader = {.fd = outlet->fd};
        int ready = poll(&no_reader, 1, 1);
        if (ready < 0) {
            return OUTLET_INTERRUPTED;
        }
        if (ready > 0) {
            break;
        }
    }
    outlet->lent = false;
    return OUTLET_WRITTEN;
}

#else

static size_t
lendable(Outlet *outlet, const struct iovec *piece)
{
    (void)outlet;
    (void)piece;
    return 0;
}

static ssize_t
lend(Outlet *outlet, const struct iovec *piece, size_t size)
{
    (void)outlet;
    (void)piece;
    (void)size;
    return 0;
}

static OutletOutcome
await_lent(Outlet *outlet)
{
    (void)outlet;
    return OUTLET_WRITTEN;
}

#endif

/* ---- one call of the system ---- */

/* What one call writes of the pieces. */
typedef struct {
    struct iovec pieces[OUTLET_MOST_PIECES];
    int count;
    size_t size;
} Stretch;

/* No more than `most` bytes at once, but no small remainder is left over. */
static Stretch
stretch_of(const struct iovec *pieces, int count, size_t most)
{
    Stretch stretch = {.count = 0};
    size_t total = 0;

    for (int i = 0; i < count; i++) {
        total += pieces[i].iov_len;
    }
    if (total < most + most / 4) {
        most = total;
    }

    for (; stretch.count < count && stretch.size < most; stretch.count++) {
        struct iovec *piece = &stretch.pieces[stretch.count];
        *piece = pieces[stretch.count];
        if (piece->iov_len > most - stretch.size) {
            piece->iov_len = most - stretch.size;
        }
        stretch.size += piece->iov_len;
    }
    return stretch;
}

static ssize_t
copy(Outlet *outlet, const Stretch *stretch)
{
    ssize_t count = stretch->count == 1
                        ? write(outlet->fd, stretch->pieces->iov_base, stretch->size)
                        : writev(outlet->fd, stretch->pieces, stretch->count);

    if (count > 0 && outlet->lent) {
        outlet->behind_lent += (size_t)count;
    }
    return count;
}

/* `*taken_whole`: all that was meant to be written in one go. */
static ssize_t
write_pipe(Outlet *outlet, const struct iovec *pieces, int count, bool *taken_whole)
{
    size_t size = lendable(outlet, pieces);

    if (size > 0) {
        *taken_whole = true; /* The pipe takes what it has room for, and then waits. */
        return lend(outlet, pieces, size);
    }
    Stretch stretch = stretch_of(pieces, count, PIPE_STRETCH);
    ssize_t written = copy(outlet, &stretch);
    *taken_whole = written == (ssize_t)stretch.size;
    return written;
}

static bool
sigpipe_kills(void)
{
    struct sigaction action;

    return sigaction(SIGPIPE, NULL, &action) == 0 && !(action.sa_flags & SA_SIGINFO) &&
           action.sa_handler == SIG_DFL;
}

/* Without MSG_NOSIGNAL, which pipes do not have, SIGPIPE is held back in this thread, and taken
 * away. */
static ssize_t
write_pipe_guarded(Outlet *outlet, const struct iovec *pieces, int count, bool *taken_whole)
{
    sigset_t pipe_only, before, pending;

    (void)sigemptyset(&pipe_only);
    (void)sigaddset(&pipe_only, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    ssize_t written = write_pipe(outlet, pieces, count, taken_whole);
    int error = errno;
    if (written < 0 && error == EPIPE && !sigismember(&before, SIGPIPE)) {
        int taken;
        if (sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE)) {
            (void)sigwait(&pipe_only, &taken);
        }
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return written;
}

static ssize_t
write_once(Outlet *outlet, struct iovec *pieces, int count, bool *taken_whole)
{
#ifdef MSG_NOSIGNAL
    if (outlet->is_socket) {
        struct msghdr message = {.msg_iov = pieces};
        message.msg_iovlen = count;
        *taken_whole = false;
        return sendmsg(outlet->fd, &message, MSG_NOSIGNAL);
    }
#endif
    return sigpipe_kills() ? write_pipe_guarded(outlet, pieces, count, taken_whole)
                           : write_pipe(outlet, pieces, count, taken_whole);
}

/* ---- all of it ---- */

static OutletOutcome
outcome_of_error(Outlet *outlet)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        struct pollfd one = {.fd = outlet->fd, .events = POLLOUT};
        (void)poll(&one, 1, -1);
        return OUTLET_INTERRUPTED;
    }
    if (errno == EINTR) {
        return OUTLET_INTERRUPTED;
    }
    outlet->lent = false; /* Nobody reads. */
    return OUTLET_FAILED;
}

OutletOutcome
outlet_write(Outlet *outlet, struct iovec *pieces, int count)
{
    bool taken_whole = true;

    for (;;) {
        while (count > 0 && pieces->iov_len == 0) {
            pieces++;
            count--;
        }
        if (count == 0) {
            return await_lent(outlet);
        }
        if (!taken_whole) {
            return OUTLET_INTERRUPTED;
        }
        ssize_t written = write_once(outlet, pieces, count, &taken_whole);
        if (written < 0) {
            return outcome_of_error(outlet);
        }
        for (int i = 0; written > 0; i++) {
            size_t part = (size_t)written < pieces[i].iov_len ? (size_t)written : pieces[i].iov_len;
            pieces[i].iov_base = (char *)pieces[i].iov_base + part;
            pieces[i].iov_len -= part;
            written -= (ssize_t)part;
        }
    }
}
