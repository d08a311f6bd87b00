/* System calls on descriptors, to be made without the GIL: no Python.h here. */
#ifndef EXECNET_FDIO_H
#define EXECNET_FDIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum {
    FDIO_READY, /* data, end of file or an error: a read will not block */
    FDIO_WOKEN, /* somebody wrote to the waker */
    FDIO_TIMED_OUT,
    FDIO_INTERRUPTED, /* look for signals, and wait again */
} FdioOutcome;

/* A descriptor pair by which one thread ends another one's fdio_wait. */
typedef struct {
    int to_wait;
    int to_write;
} FdioWaker;

enum { FDIO_FOREVER = -1 };

/* Wait until fd can be read, the waker whose to_wait is given was used, or `milliseconds` are over.
 */
FdioOutcome fdio_wait(int fd, int waker, int64_t milliseconds);

/* What has been learned of fdio_spin on a descriptor. */
typedef struct {
    bool never;       /* it was not to be tried */
    unsigned to_skip; /* waits in which it does not pay */
    unsigned penalty; /* how many there will be when it is in vain */
} FdioSpin;

/* Nothing yet; where the environment has EXECNET_SPIN=0, nothing will be. */
FdioSpin fdio_spin_new(void);

/* Whether it lately paid to spin. Each call counts as a wait. */
bool fdio_spin_pays(FdioSpin *spin);

/* Look for input again and again for a moment, before sleeping over it: on most machines it takes
   longer to be woken than the other side takes to answer. Whether there is some. */
bool fdio_spin(FdioSpin *spin, int fd);

/* Whether a write of a few bytes will not block. */
bool fdio_writable(int fd);

/* Wait until a write of a few bytes will not block, at most `milliseconds`. Whether that is so. */
bool fdio_wait_for_room(int fd, int milliseconds);

bool fdio_waker_open(FdioWaker *waker);
void fdio_waker_close(const FdioWaker *waker);
void fdio_wake(const FdioWaker *waker);
void fdio_waker_drain(const FdioWaker *waker);

/* Wait until the waker is used, and drain it. */
void fdio_waker_take(const FdioWaker *waker);

/* read(2), waiting where the descriptor is a non-blocking one: bytes, 0 at the end, -1 with errno
 * (EINTR included). */
ssize_t fdio_read(int fd, char *to, size_t size);

/* How many bytes wait to be read. */
size_t fdio_unread(int fd);

/* Copy some of them, which stay unread: how many, 0 where that can't be done. */
size_t fdio_peek(int fd, bool is_socket, char *to, size_t size);

/* An item of this many bytes makes a larger pipe worth while. */
enum { FDIO_HUGE = 512 * 1024 };

/* Give a pipe the size for such items, where the system grants it. */
void fdio_enlarge_pipe(int fd);

/* Milliseconds of a clock that only goes forward. */
int64_t fdio_now(void);

/* The same, up to a few milliseconds late, at almost no cost. */
int64_t fdio_about_now(void);

#endif
