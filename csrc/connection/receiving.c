/* Receiving: what threads do around the roles that reading.c gives them.

   A thread that waits does only what runs no Python code: it puts raw payloads into queues and
   closes channels. At any other message it hands over: the message stays in the buffer, and the
   receiver goes on from there. */
#include "connection/receiving.h"

#include "connection/dispatch.h"
#include "connection/large.h"
#include "connection/sending.h"
#include "connection/stacks.h"
#include "connection/status.h"
#include "connection/waking.h"

#include <errno.h>
#include <math.h>

enum {
    READ_SIZE = 128 * 1024,
    /* The most to read of a large payload before a look at what else there is to do. */
    LARGE_STRETCH = 4 * 1024 * 1024,
    /* Where input never pauses, a thread looks at the time and for signals nevertheless. */
    READS_WITHOUT_LOOK = 64,
};

/* ---- reading, with the role, without the GIL ---- */

/* Bytes read, 0 where nothing more can be read. */
static size_t
read_some(ConnectionObject *connection, char *to, size_t size)
{
    ssize_t count;

    do {
        count = fdio_read(connection->read_fd, to, size);
    } while (count < 0 && errno == EINTR);
    if (count > 0) {
        atomic_store_explicit(&connection->read_at, fdio_about_now(), memory_order_relaxed);
        return (size_t)count;
    }
    connection->read_errno = errno;
    connection->broken = count == 0 ? BROKEN_END : BROKEN_READ;
    return 0;
}

/* The rest of a large payload, as far as it comes without a pause. */
static void
fill_large(ConnectionObject *connection)
{
    LargePayload *large = &connection->large;
    size_t count, missing = large_missing(large), left = LARGE_STRETCH;

    do {
        /* Whoever reads more at once keeps the other side from writing to the pipe. */
        count = read_some(connection, large->to + large->filled,
                          missing < READ_SIZE ? missing : READ_SIZE);
        large->filled += count;
        missing -= count;
        left -= count;
    } while (count > 0 && missing > 0 && left >= READ_SIZE && fdio_spin_pays(&connection->spin) &&
             fdio_spin(&connection->spin, connection->read_fd));
}

/* Read once. */
static void
fill(ConnectionObject *connection)
{
    FrameBuffer *buffer = &connection->buffer;

    if (connection->large.bytes != NULL) {
        fill_large(connection);
    } else if (frame_reserve(buffer, READ_SIZE)) {
        buffer->end +=
            read_some(connection, buffer->bytes + buffer->end, buffer->capacity - buffer->end);
    } else {
        connection->broken = BROKEN_MEMORY;
    }
}

/* ---- a thread that waits ---- */

struct Wait {
    ReadingThread thread;
    int64_t deadline;
    bool is_main_thread;
};

static void
wait_free(Wait *wait)
{
    if (wait != NULL) {
        PyThread_free_lock(wait->thread.sleeper.wakeup);
        PyMem_RawFree(wait);
    }
}

/* What the machine keeps of a thread is not on the thread's stack: a thread that tries to take the
   GIL back while the interpreter ends is ended, and its stack with it. NULL with MemoryError. */
static Wait *
wait_new(ConnectionObject *connection)
{
    Wait *wait = atomic_exchange(&connection->spare_wait, NULL);

    if (wait != NULL) {
        return wait;
    }
    wait = PyMem_RawCalloc(1, sizeof *wait);
    if (wait == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    wait->thread.sleeper.wakeup = waking_new();
    if (wait->thread.sleeper.wakeup == NULL) {
        PyMem_RawFree(wait);
        return NULL;
    }
    return wait;
}

/* The wait is over. */
static void
wait_end(ConnectionObject *connection, Wait *wait)
{
    wait_free(atomic_exchange(&connection->spare_wait, wait));
}

void
receive_release(ConnectionObject *connection)
{
    wait_free(atomic_exchange(&connection->spare_wait, NULL));
}

typedef enum {
    SLEPT,
    SLEPT_READ, /* nobody told the thread, and it has read: the role is still its own */
    SLEPT_LOOK, /* the time is over, or there may be a signal */
} Slept;

/* Without the GIL: sleep until there is something to read. The main thread looks for signals after
   it spun: they do not end that. */
static FdioOutcome
await_input(ConnectionObject *connection, const Wait *wait, int64_t left)
{
    if (!fdio_spin_pays(&connection->spin)) {
        return fdio_wait(connection->read_fd, connection->waker.to_wait, left);
    }
    if (fdio_spin(&connection->spin, connection->read_fd)) {
        return FDIO_READY;
    }
    return wait->is_main_thread ? FDIO_INTERRUPTED
                                : fdio_wait(connection->read_fd, connection->waker.to_wait, left);
}

/* Only a worker is asked; that is most often not so. */
static bool
were_questions(ConnectionObject *connection)
{
    return connection->sentinel != NULL && connection->buffer.end > connection->buffer.start &&
           stacks_ask(connection);
}

static Slept
poll_input(ConnectionObject *connection, Wait *wait)
{
    int64_t left = waking_longest_sleep(wait->is_main_thread, wait->deadline);
    FdioOutcome outcome;
    bool told;

    Py_BEGIN_ALLOW_THREADS
        do {
            outcome = await_input(connection, wait, left);
            told = reading_woke(&connection->reading, &wait->thread);
            if (told) {
                waking_take(connection, &wait->thread.sleeper);
            }
            if (outcome == FDIO_READY) {
                fill(connection);
            }
        } while (outcome == FDIO_READY && !told && were_questions(connection) &&
                 reading_poll(&connection->reading, &wait->thread));
    Py_END_ALLOW_THREADS
    if (outcome == FDIO_READY) {
        return told ? SLEPT : SLEPT_READ;
    }
    return outcome == FDIO_WOKEN ? SLEPT : SLEPT_LOOK;
}

/* Attached: whether the thread is about to get what it waits for. */
static bool
is_there(ConnectionObject *connection, const ReadingThread *thread)
{
    QueueSight sight = itemqueue_sight(&connection->reading, thread->queue);

    return sight.ended || (sight.count > 0 && !thread->for_end);
}

/* With the role: do what was read, then read, until that brings what the thread waits for. */
static Slept
read_in_role(ConnectionObject *connection, Wait *wait)
{
    for (int reads = 0; reads < READS_WITHOUT_LOOK; reads++) {
        if (dispatch_plain(connection) != DISPATCH_READ || connection->broken != BROKEN_NOT) {
            Told told = NULL;
            reading_hand_over(&connection->reading, &wait->thread, &told);
            waking_wake(connection, told);
            return SLEPT;
        }
        if (is_there(connection, &wait->thread) ||
            !reading_poll(&connection->reading, &wait->thread)) {
            return SLEPT;
        }
        Slept slept = poll_input(connection, wait);
        if (slept != SLEPT_READ) {
            return slept;
        }
    }
    return SLEPT_LOOK;
}

static Slept
sleep_without_role(ConnectionObject *connection, Wait *wait, bool watches)
{
    ReadingThread *thread = &wait->thread;
    int64_t left = waking_longest_sleep(wait->is_main_thread, wait->deadline);
    bool has_alarm = watches && (left < 0 || left > READING_ALARM_MS);
    bool woken;

    Py_BEGIN_ALLOW_THREADS
        woken = waking_sleep(thread->sleeper.wakeup, has_alarm ? READING_ALARM_MS : left);
        if (reading_woke(&connection->reading, thread) && !woken) {
            waking_take(connection, &thread->sleeper);
            woken = true;
        }
    Py_END_ALLOW_THREADS
    return woken || has_alarm ? SLEPT : SLEPT_LOOK;
}

/* Wait as the machine says, until the thread has what it waits for (RECEIVED_ITEM, RECEIVED_END),
   or it is time to look whether the time is over or there is a signal (RECEIVED_TIMEOUT). The main
   thread looks before it takes what it has waited for: if a handler raises, nothing is lost. */
static Received
stay(ConnectionObject *connection, Wait *wait, ReadingItem *item)
{
    ReadingThread *thread = &wait->thread;
    Told told = NULL;
    ReadingNext next = reading_enter(&connection->reading, thread, item, &told);

    waking_wake(connection, told);
    while (next != NEXT_TAKE_ITEM && next != NEXT_TAKE_END) {
        Slept slept = next == NEXT_READ ? read_in_role(connection, wait)
                                        : sleep_without_role(connection, wait, next == NEXT_WATCH);
        told = NULL;
        if (slept == SLEPT_LOOK || (wait->is_main_thread && is_there(connection, thread))) {
            reading_quit(&connection->reading, thread, &told);
            waking_wake(connection, told);
            return RECEIVED_TIMEOUT;
        }
        next = reading_next(&connection->reading, thread, item, &told);
        waking_wake(connection, told);
    }
    return next == NEXT_TAKE_ITEM ? RECEIVED_ITEM : RECEIVED_END;
}

/* Signal handlers run while the thread neither reads nor waits. */
static Received
wait_as_thread(ItemQueueObject *queue, bool for_end, int64_t deadline, ReadingItem *item)
{
    ConnectionObject *connection = queue->connection;
    Received received = RECEIVED_ERROR;
    Wait *wait = wait_new(connection);

    if (wait == NULL) {
        return RECEIVED_ERROR;
    }
    Py_INCREF(queue);
    Py_INCREF(connection);
    wait->deadline = deadline;
    wait->thread.ident = PyThread_get_thread_ident();
    wait->is_main_thread = waking_is_main(connection, wait->thread.ident);
    wait->thread.queue = &queue->arrived;
    wait->thread.for_end = for_end;
    wait->thread.can_read = connection->queues != NULL && waking_ensure_waker(connection);
    /* A signal that came before would not end the wait. */
    while (PyErr_CheckSignals() == 0) {
        received = stay(connection, wait, item);
        if (received != RECEIVED_TIMEOUT ||
            (waking_time_left(deadline) == 0 && !is_there(connection, &wait->thread))) {
            break;
        }
        received = RECEIVED_ERROR;
    }
    wait_end(connection, wait);
    Py_DECREF(queue);
    Py_DECREF(connection);
    return received;
}

/* Whoever blocks its thread blocks all green threads in there: so it only looks, and lets them run
   in between. */
static NEVER_INLINE Received
wait_as_green(ItemQueueObject *queue, bool for_end, int64_t deadline, ReadingItem *item)
{
    double delay = 0; /* seconds */
    Received received;

    while ((received = wait_as_thread(queue, for_end, fdio_now(), item)) == RECEIVED_TIMEOUT &&
           waking_time_left(deadline) != 0) {
        int64_t left = waking_time_left(deadline);
        if (left > 0 && delay > (double)left / 1000) {
            delay = (double)left / 1000;
        }
        if (waking_doze(queue->connection, &delay) < 0) {
            return RECEIVED_ERROR;
        }
    }
    return received;
}

static Received
wait_for(ItemQueueObject *queue, bool for_end, int64_t deadline, ReadingItem *item)
{
    int is_green = waking_is_green(queue->connection);

    if (is_green < 0) {
        return RECEIVED_ERROR;
    }
    return is_green ? wait_as_green(queue, for_end, deadline, item)
                    : wait_as_thread(queue, for_end, deadline, item);
}

Received
receive_item(ItemQueueObject *queue, int64_t deadline, ReadingItem *item)
{
    Reading *reading = itemqueue_reading(queue);

#ifndef Py_GIL_DISABLED
    if (queue->arrived.count == 0 && !queue->arrived.ended) {
        return wait_for(queue, false, deadline, item);
    }
#endif
    switch (reading_take(reading, &queue->arrived, item)) {
    case TAKE_ITEM:
        return RECEIVED_ITEM;
    case TAKE_END:
        return RECEIVED_END;
    default:
        return wait_for(queue, false, deadline, item);
    }
}

Received
receive_end(ItemQueueObject *queue, int64_t deadline)
{
    (void)itemqueue_reading(queue);
    return wait_for(queue, true, deadline, NULL);
}

int
receive_deadline(PyObject *timeout, int64_t *deadline)
{
    if (timeout == Py_None) {
        *deadline = FDIO_FOREVER;
        return 0;
    }
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "timeout is not a number of seconds: nan");
        return -1;
    }
    /* Longer than a century is for ever; never too early, though fdio_now() tells whole
     * milliseconds. */
    *deadline = seconds > 3e9 ? FDIO_FOREVER
                : seconds > 0 ? fdio_now() + 1 + (int64_t)ceil(seconds * 1000)
                              : fdio_now();
    return 0;
}

/* ---- the receiver ---- */

/* Without the GIL: sleep as the machine says, until the receiver has the role. False in a forked
   child. */
static bool
await_role(ConnectionObject *connection)
{
    ReadingNext next;

    while ((next = reading_receiver_next(&connection->reading)) != NEXT_READ) {
        if (next == NEXT_TAKE_END) {
            return false;
        }
        bool woken = waking_sleep(connection->receiver_wakeup,
                                  next == NEXT_WATCH ? READING_ALARM_MS : FDIO_FOREVER);
        if (reading_receiver_woke(&connection->reading) && !woken) {
            waking_take(connection, &connection->reading.receiver.sleeper);
        }
    }
    return true;
}

/* Without the GIL: read, until there is something to do that takes the GIL; *left: also for
   send_what_is_left. False in a forked child. */
static bool
read_without_gil(ConnectionObject *connection, bool *left)
{
    while (await_role(connection)) {
        if (!were_questions(connection) && dispatch_is_due(connection)) {
            return true;
        }
        fill(connection);
        status_answer(connection, left);
        if (were_questions(connection) || stacks_are_partly_asked_for(connection)) {
            continue;
        }
        if (*left || connection->broken != BROKEN_NOT || connection->large.bytes != NULL ||
            connection->buffer.end > connection->buffer.start) {
            return true;
        }
        Told told = NULL;
        reading_receiver_done(&connection->reading, &told);
        waking_wake(connection, told);
    }
    return false;
}

static int
handle(ConnectionObject *connection)
{
    (void)atomic_fetch_add(&connection->steps, 1);
    int outcome = dispatch_python(connection);
    (void)atomic_fetch_add(&connection->steps, 1);
    return outcome;
}

/* With the role: do what was read. -1 with an exception, the role may be another's then. */
static int
dispatch_as_receiver(ConnectionObject *connection)
{
    DispatchOutcome outcome;
    Told told = NULL;

    while ((outcome = dispatch_plain(connection)) == DISPATCH_PYTHON) {
        if (handle(connection) < 0) {
            return -1;
        }
        if (!reading_receiver_back(&connection->reading)) {
            return 0; /* Another thread reads on from here. */
        }
    }
    if (connection->broken != BROKEN_NOT) {
        reading_receiver_away(&connection->reading, true, &told);
        waking_wake(connection, told);
        dispatch_set_error(connection);
        return -1;
    }
    reading_receiver_done(&connection->reading, &told);
    waking_wake(connection, told);
    return 0;
}

static int
receive_more(ConnectionObject *connection)
{
    bool in_role, left = false;

    Py_BEGIN_ALLOW_THREADS
        in_role = read_without_gil(connection, &left);
    Py_END_ALLOW_THREADS
    if (!in_role) {
        PyErr_SetString(PyExc_EOFError,
                        "the connection belongs to the process that this one was forked from");
        return -1;
    }
    if (left) {
        send_what_is_left(connection);
    }
    return dispatch_as_receiver(connection);
}

/* The role is the receiver's from here on, for good. */
static void
keep_role(ConnectionObject *connection)
{
    Told told = NULL;

    if (connection->disowned) {
        return;
    }
    reading_stop(&connection->reading, &told);
    waking_wake(connection, told);
    Py_BEGIN_ALLOW_THREADS(void)
        await_role(connection);
    Py_END_ALLOW_THREADS
}

void
receive_run(ConnectionObject *connection)
{
    PyObject *type, *error, *traceback;

    while (receive_more(connection) == 0) {
    }
    PyErr_Fetch(&type, &error, &traceback);
    keep_role(connection);
    dispatch_let_go(connection);
    PyErr_Restore(type, error, traceback);
}

void
receive_stopped(ConnectionObject *connection)
{
    Told told = NULL;

    reading_stopped(&connection->reading, &told);
    waking_wake(connection, told);
    waking_close_waker(connection);
}
