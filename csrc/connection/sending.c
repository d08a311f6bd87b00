/* Sending: what threads do around the turns that writing.c gives them. */
#include "connection/sending.h"

#include "connection/disown.h"
#include "connection/waking.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

enum {
    /* Larger pieces are not copied for the helper: their owner is kept, also where they are
       written, but may still be lent to the pipe. */
    COPY_LONGEST = 64 * 1024,
    /* A pipe that can be written to takes this many bytes at once. */
    SMALL_AT_ONCE = PIPE_BUF / WRITING_SMALL,
    /* How long the helper waits for room, and a main thread before it looks for signals. */
    ROOM_MS = 50,
};

_Static_assert((int)WRITING_SMALL == (int)FRAME_HEADER, "a small message is a header");

static int
closed_error(const ConnectionObject *connection)
{
    PyErr_Format(PyExc_OSError, "cannot send (already closed?): %s",
                 connection->write_errno != 0 ? strerror(connection->write_errno)
                                              : "the sending side is closed");
    return -1;
}

/* As the writer. */
static void
fail(ConnectionObject *connection, int error)
{
    connection->write_errno = error;
    writing_fail(&connection->writing);
}

/* As the writer: signals wait meanwhile. */
static void
write_to_the_end(ConnectionObject *connection, struct iovec *pieces, int count)
{
    WriterOutcome written;

    do {
        written = writer_write(&connection->writer, pieces, count, true);
    } while (written == WRITER_INTERRUPTED || written == WRITER_MORE);
    if (written == WRITER_FAILED) {
        fail(connection, errno);
    }
}

/* ---- small messages ---- */

/* As the writer, with or without the GIL: write the small messages for which there is room. Whether
   there was none for the rest. */
static bool
write_small(ConnectionObject *connection)
{
    char bytes[SMALL_AT_ONCE * WRITING_SMALL];

    for (;;) {
        size_t size = 0;
        WritingSmall *small;
        if (connection->write_errno == 0 && !fdio_writable(connection->writer.fd)) {
            return true;
        }
        while (size < sizeof bytes && (small = writing_take_small(&connection->writing)) != NULL) {
            memcpy(bytes + size, small->bytes, WRITING_SMALL);
            size += WRITING_SMALL;
            PyMem_RawFree(small);
        }
        if (size == 0) {
            return false;
        }
        struct iovec piece = {bytes, size};
        if (connection->write_errno == 0) {
            write_to_the_end(connection, &piece, 1);
        }
    }
}

/* ---- the helper ---- */

struct Rest {
    struct iovec pieces[WRITER_MOST_PIECES];
    int count;
    PyObject *owners[WRITER_MOST_PIECES];
    char *copies[WRITER_MOST_PIECES];
};

static void
rest_free(Rest *rest)
{
    for (int i = 0; i < rest->count; i++) {
        Py_XDECREF(rest->owners[i]);
        PyMem_RawFree(rest->copies[i]);
    }
    PyMem_RawFree(rest);
}

static Rest *
rest_new(const struct iovec *vectors, const Piece *pieces, int count)
{
    Rest *rest = PyMem_RawCalloc(1, sizeof *rest);

    if (rest == NULL) {
        return NULL;
    }
    rest->count = count;
    for (int i = 0; i < count; i++) {
        rest->pieces[i] = vectors[i];
        if (pieces[i].size > COPY_LONGEST && pieces[i].owner != NULL) {
            rest->owners[i] = Py_NewRef(pieces[i].owner);
        } else if (vectors[i].iov_len > 0) {
            rest->copies[i] = PyMem_RawMalloc(vectors[i].iov_len);
            if (rest->copies[i] == NULL) {
                rest_free(rest);
                return NULL;
            }
            memcpy(rest->copies[i], vectors[i].iov_base, vectors[i].iov_len);
            rest->pieces[i].iov_base = rest->copies[i];
        }
    }
    return rest;
}

/* Leave the turn; what the caller then owes is a helper. */
static Leave
leave_turn_and_wake(ConnectionObject *connection, WritingThread *thread, bool *full)
{
    Told told = NULL;
    Leave left;

    *full = false;
    while ((left = writing_leave(&connection->writing, thread, *full, &told)) == LEAVE_SMALL) {
        *full = write_small(connection);
    }
    waking_wake(connection, told);
    return left;
}

/* The helper asks for Python: that of the connection's interpreter, which need not be the main one.
   NULL without memory: what was to be let go of stays. */
static PyThreadState *
attach(const ConnectionObject *connection)
{
    PyThreadState *python = PyThreadState_New(connection->interpreter);

    if (python != NULL) {
        PyEval_RestoreThread(python);
    }
    return python;
}

static void
detach(PyThreadState *python)
{
    PyThreadState_Clear(python);
    PyThreadState_DeleteCurrent();
}

/* The last of the helper. With the GIL: whoever sees that there are no helpers any more goes on
   when this thread has no thread state, either. */
static void
leave_connection(ConnectionObject *connection)
{
    PyThreadState *python = attach(connection);

    if (python != NULL) {
        PyObject *module = Py_NewRef(connection->module);
        Py_DECREF(connection);
        (void)atomic_fetch_sub(&module_state(module)->helpers, 1);
        Py_DECREF(module);
        detach(python);
    }
}

static void
help(void *argument)
{
    ConnectionObject *connection = argument;
    WritingThread *helper = &connection->writing.helper;
    Told told = NULL;
    Help task;

    while ((task = writing_help(&connection->writing, &told)) != HELP_END) {
        Rest *rest = NULL;
        bool full;
        if (task == HELP_REST) {
            rest = connection->rest;
            write_to_the_end(connection, rest->pieces, rest->count);
            connection->rest = NULL;
        }
        (void)leave_turn_and_wake(connection, helper, &full);
        PyThreadState *python = rest != NULL ? attach(connection) : NULL;
        if (python != NULL) {
            rest_free(rest);
            detach(python);
        }
        if (full) {
            (void)fdio_wait_for_room(connection->writer.fd, ROOM_MS);
        }
    }
    waking_wake(connection, told);
    leave_connection(connection);
}

static bool
start_helper(ConnectionObject *connection)
{
    ModuleState *state = module_state(connection->module);

    Py_INCREF(connection);
    (void)atomic_fetch_add(&state->helpers, 1);
    if (PyThread_start_new_thread(help, connection) != PYTHREAD_INVALID_THREAD_ID) {
        return true;
    }
    (void)atomic_fetch_sub(&state->helpers, 1);
    Py_DECREF(connection);
    return false;
}

/* ---- turns ---- */

static void
do_without_helper(ConnectionObject *connection, WritingThread *thread)
{
    Told told = NULL;

    writing_no_helper(&connection->writing, thread, &told);
    waking_wake(connection, told);
}

static void
start_helper_if_owed(ConnectionObject *connection, WritingThread *thread, Leave left)
{
    if (left == LEAVE_START_HELPER && !start_helper(connection)) {
        do_without_helper(connection, thread);
    }
}

static void
leave_turn(ConnectionObject *connection, WritingThread *thread)
{
    bool full;
    Leave left = leave_turn_and_wake(connection, thread, &full);

    start_helper_if_owed(connection, thread, left);
}

/* The thread that starts another holds the GIL. Whether small messages are left alone. */
static bool
leave_turn_without_gil(ConnectionObject *connection, WritingThread *thread)
{
    bool full;

    if (leave_turn_and_wake(connection, thread, &full) != LEAVE_START_HELPER) {
        return false;
    }
    do_without_helper(connection, thread);
    return true;
}

static void
quit(ConnectionObject *connection, WritingThread *thread)
{
    Told told = NULL;
    Leave left = writing_quit(&connection->writing, thread, &told);

    waking_wake(connection, told);
    start_helper_if_owed(connection, thread, left);
}

typedef enum {
    AWAIT_TURN,
    AWAIT_CLOSED,
    AWAIT_LOOK, /* the time is over, or there may be a signal */
} Await;

/* Wait for the turn, with the GIL, which is released meanwhile. */
static Await
await_turn(ConnectionObject *connection, WritingThread *thread, Want want, int64_t deadline)
{
    bool is_main_thread = waking_is_main_thread(connection);

    for (;;) {
        Turn turn = writing_next(&connection->writing, thread, want);
        if (turn == TURN_WRITE) {
            return AWAIT_TURN;
        }
        if (turn == TURN_CLOSED) {
            quit(connection, thread);
            return AWAIT_CLOSED;
        }
        bool woken;
        int64_t left = waking_longest_sleep(is_main_thread, deadline);
        Py_BEGIN_ALLOW_THREADS
            woken = waking_sleep(thread->sleeper.wakeup, left);
            if (writing_woke(&connection->writing, thread) && !woken) {
                waking_take(connection, &thread->sleeper);
                woken = true;
            }
        Py_END_ALLOW_THREADS
        if (!woken) {
            quit(connection, thread);
            return AWAIT_LOOK;
        }
    }
}

/* A record of a thread that waits. It is not on the thread's stack: where the interpreter ends, a
   thread that takes the GIL back ends with its stack. NULL with MemoryError. */
static WritingThread *
waiting_new(void)
{
    WritingThread *waiting = PyMem_RawCalloc(1, sizeof *waiting);

    if (waiting == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    waiting->sleeper.wakeup = waking_new();
    if (waiting->sleeper.wakeup == NULL) {
        PyMem_RawFree(waiting);
        return NULL;
    }
    return waiting;
}

static void
waiting_free(WritingThread *waiting)
{
    PyThread_free_lock(waiting->sleeper.wakeup);
    PyMem_RawFree(waiting);
}

/* Wait for the turn while signal handlers run, each with nothing held; -1 if one of them raised, or
   nothing can be written any more. */
static int
await_turn_with_signals(ConnectionObject *connection, WritingThread *thread, Want want)
{
    WritingThread *waiting = waiting_new();
    Await awaited = AWAIT_LOOK;

    if (waiting == NULL) {
        return -1;
    }
    while (awaited == AWAIT_LOOK && PyErr_CheckSignals() == 0) {
        awaited = await_turn(connection, waiting, want, FDIO_FOREVER);
    }
    if (awaited == AWAIT_TURN) {
        writing_rename(&connection->writing, waiting, thread);
    }
    waiting_free(waiting);
    if (awaited == AWAIT_CLOSED) {
        (void)closed_error(connection);
    }
    return awaited == AWAIT_TURN ? 0 : -1;
}

/* ---- writing ---- */

static bool
untouched(const struct iovec *vectors, const Piece *pieces, int count)
{
    for (int i = 0; i < count; i++) {
        if (vectors[i].iov_len != pieces[i].size) {
            return false;
        }
    }
    return true;
}

typedef enum {
    WRITE_DONE,
    WRITE_FAILED,
    WRITE_LOOK, /* there may be a signal */
} WriteOutcome;

/* Without the GIL, as the writer. Only the main thread runs signal handlers: others write on. */
static WriteOutcome
write_pieces(ConnectionObject *connection, struct iovec *vectors, int count, bool looks)
{
    bool waits = true;
    int64_t look_at = 0;

    for (;;) {
        WriterOutcome written = writer_write(&connection->writer, vectors, count, waits);
        if (written == WRITER_WRITTEN) {
            return WRITE_DONE;
        }
        if (written == WRITER_FAILED) {
            fail(connection, errno);
            return WRITE_FAILED;
        }
        if (!looks) {
            continue;
        }
        /* A signal that came between two calls of the system does not end the second. */
        waits = false;
        if (look_at == 0) {
            look_at = fdio_now() + ROOM_MS;
        }
        if (written == WRITER_INTERRUPTED || fdio_now() >= look_at ||
            (written == WRITER_FULL && !fdio_wait_for_room(connection->writer.fd, ROOM_MS))) {
            return WRITE_LOOK;
        }
    }
}

typedef enum {
    REST_HANDED_OVER,
    REST_NOT_NOW, /* signals have to wait for a moment, */
    REST_NEVER,   /* or until all is written */
} RestOutcome;

/* The message has begun, and there may be a signal: the helper is to write the rest. */
static RestOutcome
hand_over_rest(ConnectionObject *connection, WritingThread *thread, struct iovec *vectors,
               const Piece *pieces, int count)
{
    connection->rest = rest_new(vectors, pieces, count);
    if (connection->rest == NULL) {
        return REST_NEVER;
    }
    Hand hand = writing_hand_over(&connection->writing, thread);
    if (hand == HAND_DONE || (hand == HAND_START && start_helper(connection))) {
        return REST_HANDED_OVER;
    }
    if (hand == HAND_START) {
        do_without_helper(connection, thread);
    }
    rest_free(connection->rest);
    connection->rest = NULL;
    return hand == HAND_START ? REST_NEVER : REST_NOT_NOW;
}

/* Handlers run here while the helper writes. */
static int
await_rest(ConnectionObject *connection)
{
    WritingThread thread = {.waits = false};

    if (await_turn_with_signals(connection, &thread, WANT_REST) < 0) {
        return -1;
    }
    leave_turn(connection, &thread);
    return 0;
}

static int
write_message(ConnectionObject *connection, WritingThread *thread, const Piece *pieces, int count)
{
    struct iovec vectors[WRITER_MOST_PIECES];
    bool looks = waking_is_main_thread(connection);

    for (int i = 0; i < count; i++) {
        vectors[i].iov_base = (char *)pieces[i].bytes;
        vectors[i].iov_len = pieces[i].size;
    }
    for (;;) {
        WriteOutcome outcome;
        Leave left = LEAVE_DONE;
        bool has_begun, full;
        Py_BEGIN_ALLOW_THREADS
            outcome = write_pieces(connection, vectors, count, looks);
            has_begun = outcome == WRITE_LOOK && !untouched(vectors, pieces, count);
            if (!has_begun) {
                /* Nobody waits for the writer to get the GIL. */
                left = leave_turn_and_wake(connection, thread, &full);
            }
        Py_END_ALLOW_THREADS
        if (has_begun) {
            RestOutcome rest = hand_over_rest(connection, thread, vectors, pieces, count);
            if (rest == REST_HANDED_OVER) {
                return await_rest(connection);
            }
            looks = rest == REST_NOT_NOW;
            continue;
        }
        start_helper_if_owed(connection, thread, left);
        if (outcome != WRITE_LOOK) {
            return outcome == WRITE_DONE ? 0 : closed_error(connection);
        }
        if (await_turn_with_signals(connection, thread, WANT_MESSAGE) < 0) {
            return -1;
        }
    }
}

int
send_message(ConnectionObject *connection, const Piece *pieces, int count)
{
    WritingThread thread = {.waits = false};

    if (disown_if_forked(connection)) {
        PyErr_SetString(PyExc_OSError, "cannot send (already closed?): the connection belongs to "
                                       "the process that this one was forked from");
        return -1;
    }
    if (!writing_try(&connection->writing, &thread) &&
        await_turn_with_signals(connection, &thread, WANT_MESSAGE) < 0) {
        return -1;
    }
    return write_message(connection, &thread, pieces, count);
}

static WritingSmall *
small_new(int code, int32_t channel)
{
    WritingSmall *small = PyMem_RawMalloc(sizeof *small);

    if (small != NULL) {
        frame_put_header(small->bytes, code, channel, 0);
    }
    return small;
}

int
send_soon(ConnectionObject *connection, int code, int32_t channel)
{
    WritingThread thread = {.waits = false};

    if (disown_if_forked(connection)) {
        return 0;
    }
    WritingSmall *small = small_new(code, channel);
    if (small == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    switch (writing_leave_behind(&connection->writing, &thread, small)) {
    case BEHIND_WRITE:
        leave_turn(connection, &thread);
        break;
    case BEHIND_LOST:
        PyMem_RawFree(small);
        break;
    case BEHIND_LEFT:
        break;
    }
    return 0;
}

void
send_what_is_left(ConnectionObject *connection)
{
    WritingThread thread = {.waits = false};

    if (writing_try(&connection->writing, &thread)) {
        leave_turn(connection, &thread);
    }
}

bool
send_now(ConnectionObject *connection, struct iovec *piece, bool *left)
{
    WritingThread thread = {.waits = false};

    if (!writing_try_now(&connection->writing, &thread)) {
        return false;
    }
    bool written = fdio_writable(connection->writer.fd);
    if (written) {
        write_to_the_end(connection, piece, 1);
    }
    if (leave_turn_without_gil(connection, &thread)) {
        *left = true;
    }
    return written;
}

void
send_soon_without_gil(ConnectionObject *connection, int code, int32_t channel)
{
    WritingThread thread = {.waits = false};
    WritingSmall *small = small_new(code, channel);

    if (small == NULL) {
        return;
    }
    switch (writing_leave_behind(&connection->writing, &thread, small)) {
    case BEHIND_WRITE:
        (void)leave_turn_without_gil(connection, &thread);
        break;
    case BEHIND_LOST:
        PyMem_RawFree(small);
        break;
    case BEHIND_LEFT:
        break;
    }
}

void
send_probe(void *argument)
{
    /* Data for a channel that nobody ever holds. */
    char message[] = {[FRAME_HEADER] = OP_NONE, OP_STOP};
    struct iovec piece = {message, sizeof message};
    bool left;

    frame_put_header(message, MESSAGE_CHANNEL_DATA, 0, sizeof message - FRAME_HEADER);
    (void)send_now(argument, &piece, &left);
}

bool
send_end(ConnectionObject *connection, int64_t milliseconds)
{
    int64_t deadline = fdio_now() + milliseconds;
    WritingThread *thread = waiting_new();
    bool ended = false;

    if (thread == NULL) {
        PyErr_Clear();
        return false;
    }
    writing_close(&connection->writing);
    do {
        if (await_turn(connection, thread, WANT_END, deadline) == AWAIT_TURN) {
            Told told = NULL;
            (void)write_small(connection);
            ended = writing_end(&connection->writing, thread, &told) == LEAVE_DONE;
            waking_wake(connection, told);
            if (!ended) {
                leave_turn(connection, thread);
            }
        }
    } while (!ended && waking_time_left(deadline) > 0);
    waiting_free(thread);
    return ended;
}

void
send_release(ConnectionObject *connection)
{
    WritingSmall *small;

    while ((small = writing_take_small(&connection->writing)) != NULL) {
        PyMem_RawFree(small);
    }
}
