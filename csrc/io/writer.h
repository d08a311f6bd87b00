/* Where a connection writes: a pipe or a socket. Used without the GIL: no Python.h here. */
#ifndef EXECNET_WRITER_H
#define EXECNET_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

/* Whose turn it is to write guards all of it. */
typedef struct {
    int fd;
    bool is_socket;
    bool zero_copy;     /* large pieces are lent to the pipe: whoever reads it copies */
    size_t capacity;    /* of a pipe written so, 0: not known yet */
    bool lent;          /* lent bytes may still be in the pipe ... */
    size_t behind_lent; /* ... before this many other bytes */
    bool cut_short;     /* the last call took less than it was given: there was a signal */
} Writer;

typedef enum {
    WRITER_WRITTEN,
    WRITER_MORE,        /* not all yet: go on */
    WRITER_FULL,        /* nothing: there is no room, and the call was not to wait */
    WRITER_INTERRUPTED, /* not all yet: look for signals, and go on */
    WRITER_FAILED,      /* see errno */
} WriterOutcome;

enum { WRITER_MOST_PIECES = 3 };

/* `zero_copy`: the other end of the pipe, if it is one, is a process that read()s it. */
Writer writer_on(int fd, bool zero_copy);

/* Write pieces, with one call of the system, and move them on by what was written: a signal that
   comes between two such calls would not end the second. Where there is no room at all, `waits`
   says whether to wait for it. The pieces' memory may be used again when all is written. SIGPIPE
   does not get through to the process. */
WriterOutcome writer_write(Writer *writer, struct iovec *pieces, int count, bool waits);

#endif
