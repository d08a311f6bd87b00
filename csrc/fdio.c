/* System calls on descriptors, to be made without the GIL. */
#define _GNU_SOURCE
#include "fdio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif

int64_t
fdio_now(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- waiting ---- */

static int
poll_timeout(int64_t milliseconds)
{
    return milliseconds < 0 ? -1 : milliseconds > INT_MAX ? INT_MAX : (int)milliseconds;
}

FdioOutcome
fdio_wait(int fd, int kick, int64_t milliseconds)
{
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = kick, .events = POLLIN}};
    int ready = poll(fds, kick < 0 ? 1 : 2, poll_timeout(milliseconds));

    if (ready < 0) {
        return errno == EINTR || errno == EAGAIN ? FDIO_INTERRUPTED : FDIO_READY;
    }
    if (ready == 0) {
        return FDIO_TIMED_OUT;
    }
    return fds[0].revents != 0 ? FDIO_READY : FDIO_KICKED;
}

bool
fdio_writable(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLOUT};

    return poll(&one, 1, 0) > 0;
}

/* ---- kicks ---- */

bool
fdio_kick_open(FdioKick *kick)
{
#ifdef __linux__
    kick->to_wait = kick->to_write = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return kick->to_wait >= 0;
#else
    int fds[2];

    if (pipe(fds) < 0) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        (void)fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        (void)fcntl(fds[i], F_SETFL, O_NONBLOCK);
    }
    kick->to_wait = fds[0];
    kick->to_write = fds[1];
    return true;
#endif
}

void
fdio_kick_close(const FdioKick *kick)
{
    (void)close(kick->to_wait);
    if (kick->to_write != kick->to_wait) {
        (void)close(kick->to_write);
    }
}

void
fdio_kick(const FdioKick *kick)
{
    uint64_t one = 1;

    /* It can only fail where enough kicks wait to be noticed. */
    (void)!write(kick->to_write, &one, sizeof one);
}

void
fdio_kick_drain(const FdioKick *kick)
{
    uint64_t counts[8];

    while (read(kick->to_wait, counts, sizeof counts) == (ssize_t)sizeof counts) {
    }
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

/* ---- writing ---- */

/* Without MSG_NOSIGNAL, which pipes do not have, SIGPIPE is held back in this thread, and taken
 * away. */
static bool
sigpipe_kills(void)
{
    struct sigaction action;

    return sigaction(SIGPIPE, NULL, &action) == 0 && !(action.sa_flags & SA_SIGINFO) &&
           action.sa_handler == SIG_DFL;
}

static ssize_t
write_pipe_guarded(int fd, const struct iovec *pieces, int count)
{
    sigset_t pipe_only, before, pending;

    (void)sigemptyset(&pipe_only);
    (void)sigaddset(&pipe_only, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    ssize_t written = writev(fd, pieces, count);
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
write_once(int fd, bool is_socket, struct iovec *pieces, int count)
{
#ifdef MSG_NOSIGNAL
    if (is_socket) {
        struct msghdr message = {.msg_iov = pieces};
        message.msg_iovlen = count;
        return sendmsg(fd, &message, MSG_NOSIGNAL);
    }
#endif
    if (sigpipe_kills()) {
        return write_pipe_guarded(fd, pieces, count);
    }
    return count == 1 ? write(fd, pieces->iov_base, pieces->iov_len) : writev(fd, pieces, count);
}

static bool
all_written(const struct iovec *pieces, int count)
{
    for (int i = 0; i < count; i++) {
        if (pieces[i].iov_len > 0) {
            return false;
        }
    }
    return true;
}

static void
move_on(struct iovec *pieces, int count, size_t written)
{
    for (int i = 0; i < count && written > 0; i++) {
        size_t part = written < pieces[i].iov_len ? written : pieces[i].iov_len;
        pieces[i].iov_base = (char *)pieces[i].iov_base + part;
        pieces[i].iov_len -= part;
        written -= part;
    }
}

FdioWritten
fdio_write(int fd, bool is_socket, struct iovec *pieces, int count)
{
    ssize_t written = write_once(fd, is_socket, pieces, count);

    if (written < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            return errno == EINTR ? FDIO_WRITE_INTERRUPTED : FDIO_WRITE_FAILED;
        }
        struct pollfd one = {.fd = fd, .events = POLLOUT};
        (void)poll(&one, 1, -1);
        return FDIO_WRITE_INTERRUPTED;
    }
    move_on(pieces, count, (size_t)written);
    return all_written(pieces, count) ? FDIO_WRITTEN : FDIO_WRITE_INTERRUPTED;
}

bool
fdio_is_socket(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

void
fdio_enlarge_pipe(int fd, int size)
{
#ifdef F_SETPIPE_SZ
    if (fcntl(fd, F_GETPIPE_SZ) < size) {
        (void)fcntl(fd, F_SETPIPE_SZ, size);
    }
#else
    (void)fd;
    (void)size;
#endif
}
