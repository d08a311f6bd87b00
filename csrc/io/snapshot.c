/* What a copy of this process tells of it.

   Threads that nobody can stop are looked at in a copy, where they do not move: what a look at
   something that changes meanwhile would do to the process, a crash at worst, is done to the copy.
   It has one thread, the caller's, and begins with all its signals blocked if that one has.
   Whatever locks the others had in the original are taken for ever, so it may stay where it is;
   then an alarm ends it. Nothing that the original has open is open in it: whoever waits for the
   original's end does not wait for the copy's. */
#define _GNU_SOURCE
#include "io/snapshot.h"

#include "io/fdio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

/* On Linux the program, which may wait for its own children or handle SIGCHLD, never hears of the
   copy; nor do what libraries have asked to be called at a fork, for which the locks of others are
   waited for. */
#ifdef __linux__
static pid_t
copy_process(void)
{
    return (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
}

enum { WAIT_FOR_COPY = __WALL };
#else
static pid_t
copy_process(void)
{
    return fork();
}

enum { WAIT_FOR_COPY = 0 };
#endif

static bool
open_pipe(int fds[2])
{
#ifdef __linux__
    return pipe2(fds, O_CLOEXEC) == 0;
#else
    if (pipe(fds) < 0) {
        return false;
    }
    (void)fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    (void)fcntl(fds[1], F_SETFD, FD_CLOEXEC);
    return true;
#endif
}

static size_t
read_until(int fd, char *to, size_t size, int64_t deadline)
{
    size_t filled = 0;

    while (filled < size) {
        struct pollfd one = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - fdio_now();
        if (left <= 0 || poll(&one, 1, (int)left) <= 0) {
            break;
        }
        ssize_t count = read(fd, to + filled, size - filled);
        if (count <= 0) {
            break;
        }
        filled += (size_t)count;
    }
    return filled;
}

static void
close_from(int first)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, (unsigned)first, ~0U, 0) == 0) {
        return;
    }
#endif
    for (long fd = first, end = sysconf(_SC_OPEN_MAX); fd < end; fd++) {
        (void)close((int)fd);
    }
}

/* The seconds are more than the original waits; where it ends before, so does the copy. */
static void
end_in_time(pid_t original, unsigned seconds)
{
    sigset_t alarms;

    (void)signal(SIGALRM, SIG_DFL);
    (void)sigemptyset(&alarms);
    (void)sigaddset(&alarms, SIGALRM);
    (void)sigprocmask(SIG_UNBLOCK, &alarms, NULL);
    (void)alarm(seconds);
#ifdef __linux__
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    if (getppid() != original) {
        _exit(1);
    }
}

/* In the copy: all that is left open is the pipe, as descriptor 0. */
static void
answer(int pipe_fd, void (*tell)(int fd, void *argument), void *argument)
{
    struct rlimit none = {0, 0};

    (void)setrlimit(RLIMIT_CORE, &none);
    if (dup2(pipe_fd, 0) == 0) {
        close_from(1);
        tell(0, argument);
    }
    _exit(0);
}

size_t
snapshot_take(void (*tell)(int fd, void *argument), void *argument, char *to, size_t size,
              int milliseconds)
{
    int fds[2];
    size_t filled = 0;
    pid_t original = getpid();

    if (!open_pipe(fds)) {
        return 0;
    }
    pid_t pid = copy_process();
    if (pid == 0) {
        end_in_time(original, (unsigned)milliseconds / 1000 + 2);
        answer(fds[1], tell, argument);
    }
    (void)close(fds[1]);
    if (pid > 0) {
        filled = read_until(fds[0], to, size, fdio_now() + milliseconds);
        (void)kill(pid, SIGKILL);
        while (waitpid(pid, NULL, WAIT_FOR_COPY) < 0 && errno == EINTR) {
        }
    }
    (void)close(fds[0]);
    return filled;
}
