/* Writing: whole or in parts, without a SIGPIPE, large pieces through a pipe without a copy.

   Of a large piece, all but the end is lent to the pipe (vmsplice): the pipe refers to its memory,
   and the reader copies from there. The end, as long as the pipe is, is copied into it. Once the
   pipe has taken that, nothing lent is left in it, and the memory is free for other uses. */
#define _GNU_SOURCE
#include "io/outlet.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/fdio.h"

/* Less is not worth a call of its own. */
enum { LEND_LEAST = 64 * 1024 };

Outlet
outlet_on(int fd, bool lends)
{
    struct stat status;
    mode_t kind = fstat(fd, &status) == 0 ? status.st_mode : 0;

    return (Outlet){.fd = fd, .is_socket = S_ISSOCK(kind), .lends = lends && S_ISFIFO(kind)};
}

/* ---- lending ---- */

#ifdef __linux__

/* How much of a piece is to be lent. */
static size_t
lendable(Outlet *outlet, const struct iovec *piece)
{
    if (!outlet->lends || piece->iov_len < (outlet->capacity > 0 ? outlet->capacity : FDIO_HUGE)) {
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
    return piece->iov_len >= outlet->capacity + LEND_LEAST ? piece->iov_len - outlet->capacity : 0;
}

static ssize_t
lend(Outlet *outlet, const struct iovec *piece, size_t size, bool waits)
{
    struct iovec part = {piece->iov_base, size};
    ssize_t count = vmsplice(outlet->fd, &part, 1, waits ? 0 : SPLICE_F_NONBLOCK);

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

/* All is written: whether nothing lent is left in the pipe. It is gone by then, unless the reader
   has enlarged the pipe meanwhile. Looks a second time after a millisecond. */
static bool
lent_is_read(Outlet *outlet)
{
    int unread;

    for (int look = 0; look < 2; look++) {
        if (!outlet->lent || ioctl(outlet->fd, FIONREAD, &unread) < 0 ||
            (size_t)unread <= outlet->behind_lent) {
            outlet->lent = false;
            return true;
        }
        struct pollfd no_reader = {.fd = outlet->fd};
        if (poll(&no_reader, 1, 1) > 0) {
            outlet->lent = false;
        }
    }
    return !outlet->lent;
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
lend(Outlet *outlet, const struct iovec *piece, size_t size, bool waits)
{
    (void)outlet;
    (void)piece;
    (void)size;
    (void)waits;
    return 0;
}

static bool
lent_is_read(Outlet *outlet)
{
    (void)outlet;
    return true;
}

#endif

/* ---- one call of the system ---- */

static size_t
total(const struct iovec *pieces, int count)
{
    size_t size = 0;

    for (int i = 0; i < count; i++) {
        size += pieces[i].iov_len;
    }
    return size;
}

/* Copy pieces into the pipe, up to the one that is to be lent. */
static ssize_t
copy(Outlet *outlet, const struct iovec *pieces, int count)
{
    int copied = 1;

    while (copied < count && lendable(outlet, &pieces[copied]) == 0) {
        copied++;
    }
    ssize_t written = copied == 1 ? write(outlet->fd, pieces->iov_base, pieces->iov_len)
                                  : writev(outlet->fd, pieces, copied);
    if (written > 0 && outlet->lent) {
        outlet->behind_lent += (size_t)written;
    }
    outlet->cut_short = written >= 0 && (size_t)written < total(pieces, copied);
    return written;
}

static ssize_t
write_pipe(Outlet *outlet, const struct iovec *pieces, int count, bool waits)
{
    size_t size = lendable(outlet, pieces);

    return size > 0 ? lend(outlet, pieces, size, waits) : copy(outlet, pieces, count);
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
write_pipe_guarded(Outlet *outlet, const struct iovec *pieces, int count, bool waits)
{
    sigset_t pipe_only, before, pending;

    (void)sigemptyset(&pipe_only);
    (void)sigaddset(&pipe_only, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    ssize_t written = write_pipe(outlet, pieces, count, waits);
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
write_once(Outlet *outlet, struct iovec *pieces, int count, bool waits)
{
    outlet->cut_short = false;
#ifdef MSG_NOSIGNAL
    if (outlet->is_socket) {
        struct msghdr message = {.msg_iov = pieces};
        message.msg_iovlen = count;
        ssize_t sent = sendmsg(outlet->fd, &message, MSG_NOSIGNAL);
        outlet->cut_short = sent >= 0 && (size_t)sent < total(pieces, count);
        return sent;
    }
#endif
    return sigpipe_kills() ? write_pipe_guarded(outlet, pieces, count, waits)
                           : write_pipe(outlet, pieces, count, waits);
}

/* ---- all of it ---- */

static OutletOutcome
outcome_of_error(Outlet *outlet, bool waits)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        if (!waits) {
            return OUTLET_FULL;
        }
        struct pollfd one = {.fd = outlet->fd, .events = POLLOUT};
        return poll(&one, 1, -1) < 0 ? OUTLET_INTERRUPTED : OUTLET_MORE;
    }
    if (errno == EINTR) {
        return OUTLET_INTERRUPTED;
    }
    outlet->lent = false; /* Nobody reads. */
    return OUTLET_FAILED;
}

static void
move_on(struct iovec *pieces, size_t written)
{
    for (int i = 0; written > 0; i++) {
        size_t part = written < pieces[i].iov_len ? written : pieces[i].iov_len;
        pieces[i].iov_base = (char *)pieces[i].iov_base + part;
        pieces[i].iov_len -= part;
        written -= part;
    }
}

OutletOutcome
outlet_write(Outlet *outlet, struct iovec *pieces, int count, bool waits)
{
    while (count > 0 && pieces->iov_len == 0) {
        pieces++;
        count--;
    }
    if (count > 0) {
        /* Only who lends can say that it does not wait. */
        if (!waits && lendable(outlet, pieces) == 0 && !fdio_writable(outlet->fd)) {
            return OUTLET_FULL;
        }
        ssize_t written = write_once(outlet, pieces, count, waits);
        if (written < 0) {
            return outcome_of_error(outlet, waits);
        }
        move_on(pieces, (size_t)written);
    }
    for (int i = 0; i < count; i++) {
        if (pieces[i].iov_len > 0) {
            return outlet->cut_short ? OUTLET_INTERRUPTED : OUTLET_MORE;
        }
    }
    return lent_is_read(outlet) ? OUTLET_WRITTEN : OUTLET_INTERRUPTED;
}
