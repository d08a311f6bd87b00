/* What a connection consists of. The headers above this one say who may do what with it:
   sending.h, itemqueue.h, dispatch.h, receiving.h.

   The GIL guards every field, but for those that say otherwise. Where there is no GIL, the lock of
   the reading machine does: see LOCK_WITHOUT_GIL. */
#ifndef EXECNET_CONNECTION_H
#define EXECNET_CONNECTION_H

#include "pycompat.h"

#include "connection/reading.h"
#include "connection/writing.h"
#include "io/fdio.h"
#include "io/frame.h"
#include "io/writer.h"
#include "io/sentinel.h"
#include "values/codec.h"
#include "values/dump.h"
#include "values/load.h"
#include "wire.h"

#include <stdatomic.h>

/* Around what the GIL guards where there is one. Whoever locks is attached to the interpreter, as
   a holder of the GIL is, and stays so: between these two nothing waits, allocates or runs Python
   code, so nobody lets go of an object. */
#ifdef Py_GIL_DISABLED
#define LOCK_WITHOUT_GIL(reading) mutex_lock(&(reading)->lock)
#define UNLOCK_WITHOUT_GIL(reading) mutex_unlock(&(reading)->lock)
#else
#define LOCK_WITHOUT_GIL(reading) ((void)(reading))
#define UNLOCK_WITHOUT_GIL(reading) ((void)(reading))
#endif

enum {
    STATUS_NAME = 32,
    MOST_FOUND = 16, /* questions that nobody reads, at a time */
};

/* A large payload on its way into its own object. */
typedef struct {
    PyObject *bytes; /* NULL: none is under way */
    char *to;        /* its memory */
    bool is_complete;
    size_t filled, size;
    Frame frame;
    bool is_value; /* the payload was a bytes value: `bytes` is that, not the payload */
} LargePayload;

/* Why nothing more can be read. */
typedef enum {
    BROKEN_NOT,
    BROKEN_END,    /* of input */
    BROKEN_READ,   /* read_errno */
    BROKEN_HEADER, /* what is in the buffer is no message */
    BROKEN_MEMORY,
} Broken;

/* The rest of a message that a signal interrupted. */
typedef struct Rest Rest;

/* What is asked of Python code while the GIL may be somebody's for ever. */
typedef struct Question Question;

/* A task that runs. */
typedef struct Task Task;

/* A thread's wait for an item, or for the end. */
typedef struct Wait Wait;

/* What is noted of items. */
typedef struct Timeline Timeline;

typedef struct {
    PyObject_HEAD
    CodecObject *codec;
    int read_fd;
    PyObject *module;                /* its state may be asked until the connection is gone */
    PyInterpreterState *interpreter; /* whose objects these are */
    const ForkMark *fork_mark;       /* the module's */
    atomic_bool disowned;            /* this is a forked child: the connection is the parent's */
    /* Ends a worker that lost its connection, or NULL. Without a GIL, the object's critical section
       guards it. */
    Sentinel *sentinel;
    PyObject *weakrefs;
    PyObject *itself; /* weakly; set before there is a sentinel */

    /* Sending. Whose turn it is has the writer and the rest, with or without the GIL. */
    Writing writing;
    Writer writer;
    atomic_int write_errno;
    Rest *rest;

    /* Receiving. This is of the thread that has the reader role, with or without the GIL. */
    Reading reading;
    FrameBuffer buffer;
    LargePayload large;
    Broken broken;
    int read_errno;
    FdioSpin spin;
    _Atomic unsigned steps;  /* of the receiver out of the role and back: odd while it is out */
    _Atomic int64_t read_at; /* fdio_about_now's milliseconds, for reports; 0: nothing yet */

    PyThread_type_lock receiver_wakeup;
    _Atomic(Wait *) spare_wait; /* of one that is over, for the next */
    bool has_waker;
    FdioWaker waker; /* wakes the thread that polls */

#ifdef Py_GIL_DISABLED
    /* Queues that other threads let go of while they were looked at, see dispatch.c. Atomic. */
    atomic_ulong dispatcher; /* the thread that looks at them, or 0 */
    _Atomic(void *) dead;
#endif

    /* Set once, before any other thread knows of the connection. */
    PyObject *queues;   /* dict: id -> ItemQueue; NULL until attach(), and after disown() */
    PyObject *factory;  /* makes channels */
    PyObject *received; /* called with (code, channel id, payload) for what is done in Python */

    /* What STATUS tells (status.c); looked at without the GIL. */
    atomic_int open_channels;
    atomic_int running_tasks;
    char execmodel[STATUS_NAME]; /* empty: STATUS is answered in Python */

    /* Which tasks run (tasks.c); their lock guards them. */
    Mutex tasks_lock;
    Task *tasks;

    /* Set once, where it is asked for (timeline.c). */
    _Atomic(Timeline *) timeline;

    /* A question (stacks.c): its channel, until somebody answers it; the channels of the last ones
       that were found where nobody had read them; and what Python code was not yet there to be
       asked. */
    _Atomic int32_t asked, found[MOST_FOUND];
    atomic_uint founds;
    _Atomic(Question *) question;
    atomic_bool answers;              /* the sentinel does: it may be the writer */
    void (*dump_threads)(int number); /* NULL: not prepared */
    int dump_signal;
} ConnectionObject;

#endif
