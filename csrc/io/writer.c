/* Writing: whole or in parts, without a SIGPIPE, large pieces through a pipe without a copy.

   Of a large piece, all but the end is lent to the pipe (vmsplice): the pipe refers to its memory,
   and the reader copies from there. The end, as long as the pipe is, is copied into it. Once the
   pipe has taken that, nothing lent is left in it, and the memory is free for other uses. */
#define _GNU_SOURCE
#include "io/writer.h"

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

Writer
writer_on(int fd, bool zero_copy)
{
    struct stat status;
    mode_t kind = fstat(fd, &status) == 0 ? status.st_mode : 0;

    return (Writer){
        .fd = fd, .is_socket = S_ISSOCK(kind), .zero_copy = zero_copy && S_ISFIFO(kind)};
}

/* ---- lending ---- */

#ifdef __linux__

/* How much of a piece is to be lent. */
static size_t
lendable(Writer *writer, const struct iovec *piece)
{
    if (!writer->zero_copy ||
        piece->iov_len < (writer->capacity > 0 ? writer->capacity : FDIO_HUGE)) {
        return 0;
    }
    if (writer->capacity == 0) {
        fdio_enlarge_pipe(writer->fd);
        int capacity = fcntl(writer->fd, F_GETPIPE_SZ);
        if (capacity <= 0) {
            writer->zero_copy = false;
            return 0;
        }
        writer->capacity = (size_t)capacity;
    }
    return piece->iov_len >= writer->capacity + LEND_LEAST ? piece->iov_len - writer->capacity : 0;
}

static ssize_t
lend(Writer *writer, const struct iovec *piece, size_t size, bool waits)
{
    struct iovec part = {piece->iov_base, size};
    ssize_t count = vmsplice(writer->fd, &part, 1, waits ? 0 : SPLICE_F_NONBLOCK);

    if (count > 0) {
        writer->lent = true;
        writer->behind_lent = 0;
    } else if (errno != EPIPE && errno != EINTR && errno != EAGAIN) {
        /* Not every system that calls itself Linux can do this. */
        writer->zero_copy = false;
        errno = EINTR;
    }
    return count;
}

/* All is written: whether nothing lent is left in the pipe. It is gone by then, unless the reader
   has enlarged the pipe meanwhile. Looks a second time after a millisecond. */
static bool
lent_is_read(Writer *writer)
{
    int unread;

    for (int look = 0; look < 2; look++) {
        if (!writer->lent || ioctl(writer->fd, FIONREAD, &unread) < 0 ||
            (size_t)unread <= writer->behind_lent) {
            writer->lent = false;
            return true;
        }
        struct pollfd no_reader = {.fd = writer->fd};
        if (poll(&no_reader, 1, 1) > 0) {
            writer->lent = false;
        }
    }
    return !writer->lent;
}

#else

static size_t
lendable(Writer *writer, const struct iovec *piece)
{
    (void)writer;
    (void)piece;
    return 0;
}

static ssize_t
lend(Writer *writer, const struct iovec *piece, size_t size, bool waits)
{
    (void)writer;
    (void)piece;
    (void)size;
    (void)waits;
    return 0;
}

static bool
lent_is_read(Writer *writer)
{
    (void)writer;
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
copy(Writer *writer, const struct iovec *pieces, int count)
{
    int copied = 1;

    while (copied < count && lendable(writer, &pieces[copied]) == 0) {
        copied++;
    }
    ssize_t written = copied == 1 ? write(writer->fd, pieces->iov_base, pieces->iov_len)
                                  : writev(writer->fd, pieces, copied);
    if (written > 0 && writer->lent) {
        writer->behind_lent += (size_t)written;
    }
    writer->cut_short = written >= 0 && (size_t)written < total(pieces, copied);
    return written;
}

static ssize_t
write_pipe(Writer *writer, const struct iovec *pieces, int count, bool waits)
{
    size_t size = lendable(writer, pieces);

    return size > 0 ? lend(writer, pieces, size, waits) : copy(writer, pieces, count);
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
write_pipe_guarded(Writer *writer, const struct iovec *pieces, int count, bool waits)
{
    sigset_t pipe_only, before, pending;

    (void)sigemptyset(&pipe_only);
    (void)sigaddset(&pipe_only, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    ssize_t written = write_pipe(writer, pieces, count, waits);
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
write_once(Writer *writer, struct iovec *pieces, int count, bool waits)
{
    writer->cut_short = false;
#ifdef MSG_NOSIGNAL
    if (writer->is_socket) {
        struct msghdr message = {.msg_iov = pieces};
        message.msg_iovlen = count;
        ssize_t sent = sendmsg(writer->fd, &message, MSG_NOSIGNAL);
        writer->cut_short = sent >= 0 && (size_t)sent < total(pieces, count);
        return sent;
    }
#endif
    return sigpipe_kills() ? write_pipe_guarded(writer, pieces, count, waits)
                           : write_pipe(writer, pieces, count, waits);
}

/* ---- all of it ---- */

static WriterOutcome
outcome_of_error(Writer *writer, bool waits)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        if (!waits) {
            return WRITER_FULL;
        }
        struct pollfd one = {.fd = writer->fd, .events = POLLOUT};
        return poll(&one, 1, -1) < 0 ? WRITER_INTERRUPTED : WRITER_MORE;
    }
    if (errno == EINTR) {
        return WRITER_INTERRUPTED;
    }
    writer->lent = false; /* Nobody reads. */
    return WRITER_FAILED;
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

WriterOutcome
writer_write(Writer *writer, struct iovec *pieces, int count, bool waits)
{
    while (count > 0 && pieces->iov_len == 0) {
        pieces++;
        count--;
    }
    if (count > 0) {
        /* Only a writer that lends can say that it does not wait. */
        if (!waits && lendable(writer, pieces) == 0 && !fdio_writable(writer->fd)) {
            return WRITER_FULL;
        }
        ssize_t written = write_once(writer, pieces, count, waits);
        if (written < 0) {
            return outcome_of_error(writer, waits);
        }
        move_on(pieces, (size_t)written);
    }
    for (int i = 0; i < count; i++) {
        if (pieces[i].iov_len > 0) {
            return writer->cut_short ? WRITER_INTERRUPTED : WRITER_MORE;
        }
    }
    return lent_is_read(writer) ? WRITER_WRITTEN : WRITER_INTERRUPTED;
}
