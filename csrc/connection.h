/* A connection: the shared state of sending, receiving and the item queues of its channels.

   The GIL guards every field, but for those that say otherwise. */
#ifndef EXECNET_CONNECTION_H
#define EXECNET_CONNECTION_H

#include "core.h"
#include "fdio.h"
#include "frame.h"
#include "outlet.h"
#include "sentinel.h"

#include <stdatomic.h>

typedef struct ConnectionObject ConnectionObject;
typedef struct ItemQueueObject ItemQueueObject;

/* ---- channel.c: the part of a channel that runs per item ---- */

typedef struct {
    PyObject_HEAD
    PyObject *gateway;
    ItemQueueObject *queue; /* NULL where the connection is not one of the C core */
    int id;
    char closed;
} ChannelObject;

/* ---- itemqueue.c: what waits to be received on one channel, and who waits for it ---- */

/* An item: the raw payload, or the value where it had to be built on arrival. */
typedef struct {
    PyObject *object;
    bool built;
} Item;

struct ItemQueueObject {
    PyObject_HEAD
    ConnectionObject *connection;
    ChannelObject *channel; /* borrowed: NULL once the channel is dropped */
    Item *items;            /* a ring of `capacity` items */
    Py_ssize_t capacity, first, count;
    PyObject *callback;  /* None: there is none */
    PyObject *endmarker; /* owned by the Python side's rules */
    PyObject *strconfig;
    LoadOptions options; /* strconfig, as the reader wants it */
    bool ended;          /* nothing more can arrive */
    bool is_open;        /* counted among the connection's open channels */
};

/* Append an item (a reference is taken) and wake who waits for it; -1 with MemoryError. */
int itemqueue_put(ItemQueueObject *queue, PyObject *object, bool built);

/* Let nothing more arrive, and wake all who wait. */
void itemqueue_end(ItemQueueObject *queue);

typedef enum {
    TAKE_ERROR = -1,
    TAKE_ITEM,
    TAKE_END,
    TAKE_TIMEOUT,
} TakeOutcome;

/* The next item, waited for until `deadline` (fdio_now's milliseconds, or FDIO_FOREVER). Signal
 * handlers run meanwhile. */
TakeOutcome itemqueue_take(ItemQueueObject *queue, int64_t deadline, Item *item);

/* Deadline of a timeout argument: None or seconds; -1 with an exception. */
int itemqueue_deadline(PyObject *timeout, int64_t *deadline);

/* ---- connection.c: the type, and sending ---- */

/* A thread that waits for something of a queue while another one reads. Lives on that thread's C
 * stack. */
typedef struct Waiter {
    PyThread_type_lock lock;
    ItemQueueObject *queue;
    bool for_end; /* waits for the queue's end, not for an item */
    bool woken;
    struct Waiter *next;
} Waiter;

enum { STATUS_NAME = 32 };

/* A large payload on its way into its own object. */
typedef struct {
    PyObject *bytes; /* NULL: none is under way */
    char *to;        /* its memory */
    bool is_complete;
    size_t filled, size;
    Frame frame;
    bool is_value; /* the payload was a bytes value: `bytes` is that, not the payload */
} LargePayload;

struct ConnectionObject {
    PyObject_HEAD
    CodecObject *codec;
    int read_fd;
    bool disowned;      /* this is a forked child: the connection is the parent's */
    Sentinel *sentinel; /* ends a worker that lost its connection, or NULL */

    /* Sending. Who holds the lock writes, with the GIL released. */
    PyThread_type_lock write_lock;
    Outlet outlet;
    bool write_closed;
    char *unsent; /* whole small messages, left by finalizers for who writes next */
    size_t unsent_size, unsent_capacity;

    /* Receiving. What arrives belongs to who holds the reader role. */
    FrameBuffer buffer;
    LargePayload large;
    PyObject *queues;   /* dict: id -> ItemQueue; NULL until attach() */
    PyObject *factory;  /* makes channels */
    PyObject *received; /* called with (code, channel id, payload) for what is done in Python */
    PyObject *failure;  /* what made the input unreadable, or NULL */
    bool at_end;        /* end of input; set by who has the role */
    int read_errno;     /* of the last read, 0: it succeeded */
    FdioSpin spin;
    bool stopped; /* the receiver has left: nobody reads any more */
    Waiter *waiters;
    ItemQueueObject
        *reader_queue; /* of the thread that waits for a queue in the reader role, else NULL */
    bool reader_for_end;
    bool reader_kicked;
    bool has_kick;
    FdioKick kick;        /* ends the wait of that thread */
    Py_ssize_t callbacks; /* queues that have one */

    /* What STATUS tells (status.c); looked at without the GIL. */
    atomic_int open_channels;
    atomic_int running_tasks;
    char execmodel[STATUS_NAME]; /* empty: STATUS is answered in Python */

    /* The reader role (receive.c); these are looked at without the GIL, too. */
    atomic_bool role_taken;
    atomic_uint role_uses;   /* how often a waiting thread took it */
    atomic_bool handed_over; /* what comes next is for the receiver */
    atomic_bool has_callbacks;
    atomic_bool receiver_wanted; /* the receiver wants to be woken when the role is free */
    atomic_bool receiver_woken;
    PyThread_type_lock receiver_lock;
};

/* One piece of a message. Where the write has to be finished by another thread, the piece is
 * copied, or its owner kept. */
typedef struct {
    const char *bytes;
    size_t size;
    PyObject *owner; /* may be NULL */
} Piece;

/* Write a message whole, in the order of the callers. OSError if the connection is closed; what a
   signal handler raised, after which the message has either not begun to be written, or is written
   to its end all the same. */
int connection_write(ConnectionObject *connection, const Piece *pieces, int count);

/* Write what finalizers left, if nobody else is writing. */
void connection_flush(ConnectionObject *connection);

/* ---- large.c: a large payload on its way into an object of its own ---- */

/* Whether a partial frame is one that should be read so, and enough of it is there to tell how. */
bool large_is_due(const Frame *frame);

/* Begin: what is there of the frame moves to its place. -1 with MemoryError. */
int large_begin(ConnectionObject *connection, Frame *frame);

/* Bytes still to be read, to bytes + filled. */
size_t large_missing(const LargePayload *large);

/* All is read. -1 with an exception. */
int large_complete(LargePayload *large);

/* ---- dispatch.c: what becomes of a message ---- */

typedef enum {
    NEXT_ERROR = -1, /* an exception is set: the input is given up */
    NEXT_READ,       /* all that was read is done, more is needed */
    NEXT_PYTHON,     /* a message that takes Python code is next */
} NextOutcome;

/* Do what the whole messages ask that have been read, as far as that takes no Python code. */
NextOutcome dispatch_plain(ConnectionObject *connection);

/* Do what the message asks at which dispatch_plain stopped. The reader role, which the caller
 * holds, is free afterwards. */
int dispatch_python(ConnectionObject *connection);

/* Raise EOFError: a clean end of input, or one in the middle of a message. */
void dispatch_set_end_error(ConnectionObject *connection);

/* ---- status.c: what this side is doing, told without the GIL ---- */

/* Without the GIL, in the reader role: answer the STATUS messages that come next, as far as that
 * takes no waiting. */
void status_answer(ConnectionObject *connection);

/* ---- receive.c: the reader role ---- */

void receive_release_role(ConnectionObject *connection);

/* Wait in the calling thread until queue has an item (or with for_end: until it has ended), or the
   deadline. 0, or -1 with an exception that a signal handler raised. */
int receive_wait(ConnectionObject *connection, ItemQueueObject *queue, bool for_end,
                 int64_t deadline);

/* Wake who waits for queue: one for an item, all for its end. */
void receive_wake(ConnectionObject *connection, ItemQueueObject *queue, bool ended);

/* The receiver's life: read and do what messages ask until the end of input (EOFError) or an
 * exception. */
PyObject *receive_run(ConnectionObject *connection);

/* The receiver is gone for good: who still waits looks again. */
void receive_stop(ConnectionObject *connection);

/* In a forked child: nobody of this process waits or reads. */
void receive_disown(ConnectionObject *connection);

void receive_close_kick(ConnectionObject *connection);

/* Tell the receiver that a callback was set or is gone. */
void receive_count_callback(ConnectionObject *connection, int change);

#endif
