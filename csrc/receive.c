/* Receiving: who reads.

   One thread at a time reads a connection: the one that holds the reader role. By default that is
   the receiver thread, which is blocked in read() meanwhile. A thread that waits for an item takes
   the role when it is free, and reads until its own item is there: the item reaches it without a
   second thread being woken. The receiver stays out of the way as long as the role is taken again
   and again, and comes back after a millisecond (QUIET_MS) in which nobody took it.

   A waiting thread does only what runs no Python code, so that no signal handler can raise in the
   middle of it: it puts raw payloads into queues, and closes channels. At any other message it
   hands over: the message stays in the buffer, the receiver is woken and goes on from there.
   Callbacks, exec requests, channels inside items, and the end of the connection are the
   receiver's. */
#include "connection.h"

#include <errno.h>

enum {
    READ_SIZE = 128 * 1024,
    /* Of a large payload, no more is read without a look at what else there is to do. */
    LARGE_STRETCH = 4 * 1024 * 1024,
    QUIET_MS = 1,
    SIGNALS_MS = 50,
};

/* ---- the role ---- */

static bool
role_try_take(ConnectionObject *connection)
{
    return !atomic_exchange(&connection->role_taken, true);
}

void
receive_release_role(ConnectionObject *connection)
{
    atomic_store(&connection->role_taken, false);
}

static void
wake_receiver(ConnectionObject *connection)
{
    if (!atomic_exchange(&connection->receiver_woken, true)) {
        PyThread_release_lock(connection->receiver_lock);
    }
}

static void
wake(Waiter *waiter)
{
    waiter->woken = true;
    PyThread_release_lock(waiter->lock);
}

/* Let another waiting thread look whether it can take the role; false if there is none. */
static bool
offer_role(ConnectionObject *connection)
{
    for (Waiter *waiter = connection->waiters; waiter != NULL; waiter = waiter->next) {
        if (!waiter->woken) {
            wake(waiter);
            return true;
        }
    }
    return false;
}

/* The role is free: let who waits for it know. */
static void
role_offer(ConnectionObject *connection)
{
    if (atomic_load(&connection->handed_over)) {
        wake_receiver(connection);
    } else if (!offer_role(connection) && (atomic_exchange(&connection->receiver_wanted, false) ||
                                           atomic_load(&connection->has_callbacks))) {
        wake_receiver(connection);
    }
}

/* A waiting thread leaves the role. */
static void
role_leave(ConnectionObject *connection)
{
    atomic_store(&connection->role_taken, false);
    role_offer(connection);
}

static void
kick_reader(ConnectionObject *connection)
{
    fdio_kick(&connection->kick);
    connection->reader_kicked = true;
}

void
receive_wake(ConnectionObject *connection, ItemQueueObject *queue, bool ended)
{
    for (Waiter *waiter = connection->waiters; waiter != NULL; waiter = waiter->next) {
        if (waiter->queue == queue && !waiter->woken && (ended || !waiter->for_end)) {
            wake(waiter);
            if (!ended) {
                return;
            }
        }
    }
    if (connection->reader_queue == queue && (ended || !connection->reader_for_end)) {
        kick_reader(connection);
    }
}

void
receive_count_callback(ConnectionObject *connection, int change)
{
    connection->callbacks += change;
    atomic_store(&connection->has_callbacks, connection->callbacks > 0);
    if (change > 0) {
        wake_receiver(connection);
    }
}

/* ---- reading ---- */

/* Without the GIL, in the reader role, as the functions below: bytes read, 0 at the end of input or
   where it can't be read. */
static size_t
read_some(ConnectionObject *connection, char *to, size_t size)
{
    ssize_t count;

    do {
        count = fdio_read(connection->read_fd, to, size);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
        connection->read_errno = errno;
        return 0;
    }
    if (count == 0) {
        connection->at_end = true;
    }
    return (size_t)count;
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

    connection->read_errno = 0;
    if (connection->large.bytes != NULL) {
        fill_large(connection);
    } else if (frame_reserve(buffer, READ_SIZE)) {
        buffer->end +=
            read_some(connection, buffer->bytes + buffer->end, buffer->capacity - buffer->end);
    } else {
        connection->read_errno = ENOMEM;
    }
}

/* With the GIL again: -1 with an exception where nothing could be read. */
static int
check_filled(ConnectionObject *connection)
{
    LargePayload *large = &connection->large;

    if (connection->read_errno == ENOMEM) {
        PyErr_NoMemory();
        return -1;
    }
    if (connection->read_errno != 0) {
        PyErr_Format(PyExc_EOFError, "can't read: %s", strerror(connection->read_errno));
        return -1;
    }
    if (large->bytes == NULL || large->is_complete || large_missing(large) > 0) {
        return 0;
    }
    return large_complete(large);
}

static int
read_once(ConnectionObject *connection)
{
    Py_BEGIN_ALLOW_THREADS
        fill(connection);
    Py_END_ALLOW_THREADS
    return check_filled(connection);
}

/* ---- waiting threads ---- */

/* The connection's kick is made when a thread first waits in the role, and goes with the
 * connection's end. */
static int
ensure_kick(ConnectionObject *connection)
{
    if (!connection->has_kick) {
        if (!fdio_kick_open(&connection->kick)) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        connection->has_kick = true;
    }
    return 0;
}

void
receive_close_kick(ConnectionObject *connection)
{
    if (connection->has_kick) {
        fdio_kick_close(&connection->kick);
        connection->has_kick = false;
    }
}

static bool
is_satisfied(const ItemQueueObject *queue, bool for_end)
{
    return queue->ended || (queue->count > 0 && !for_end);
}

static int64_t
time_left(int64_t deadline)
{
    if (deadline == FDIO_FOREVER) {
        return FDIO_FOREVER;
    }
    int64_t left = deadline - fdio_now();
    return left > 0 ? left : 0;
}

/* How long the thread may sleep. A signal that comes just before, while the GIL changes hands,
   would not end its sleep: the main thread, which runs the signal handlers, looks now and then. */
static int64_t
sleep_left(ConnectionObject *connection, int64_t deadline)
{
    ModuleState *state = PyType_GetModuleState(Py_TYPE(connection));
    int64_t left = time_left(deadline);

    if (PyThread_get_thread_ident() == state->importer && (left < 0 || left > SIGNALS_MS)) {
        return SIGNALS_MS;
    }
    return left;
}

/* The input can't be read on: keep why for the receiver, which tells it. */
static void
keep_failure(ConnectionObject *connection)
{
    PyObject *type, *error, *traceback;

    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    Py_XSETREF(connection->failure, error);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
}

/* Do what was read; hand over to the receiver what is its own. False when this thread should not
 * read on. */
static bool
dispatch_as_waiter(ConnectionObject *connection)
{
    NextOutcome next = dispatch_plain(connection);

    if (next == NEXT_ERROR) {
        keep_failure(connection);
    }
    if (next != NEXT_READ || connection->at_end) {
        atomic_store(&connection->handed_over, true);
        return false;
    }
    return true;
}

/* Wait, with the role held, until there is something to read. While it waits, the thread can be
   found in the connection's reader_queue, and kicked. */
static FdioOutcome
wait_as_reader(ConnectionObject *connection, ItemQueueObject *queue, bool for_end, int64_t deadline)
{
    int64_t left = sleep_left(connection, deadline);
    FdioOutcome outcome;

    connection->reader_queue = queue;
    connection->reader_for_end = for_end;
    bool spins = fdio_spin_pays(&connection->spin);
    Py_BEGIN_ALLOW_THREADS
        if (!spins) {
            outcome = fdio_wait(connection->read_fd, connection->kick.to_wait, left);
        } else if (fdio_spin(&connection->spin, connection->read_fd)) {
            outcome = FDIO_READY;
        } else {
            outcome = FDIO_INTERRUPTED;
        }
    Py_END_ALLOW_THREADS
    connection->reader_queue = NULL;
    if (connection->reader_kicked) {
        connection->reader_kicked = false;
        fdio_kick_drain(&connection->kick);
        return outcome == FDIO_READY ? FDIO_READY : FDIO_KICKED;
    }
    return outcome;
}

/* Read, holding the role, until queue is satisfied, the deadline, or there is something that this
   thread must leave to others. 0, or -1 with an exception of a signal handler. */
static int
read_for(ConnectionObject *connection, ItemQueueObject *queue, bool for_end, int64_t deadline)
{
    int outcome = ensure_kick(connection);

    while (outcome == 0 && dispatch_as_waiter(connection) && !is_satisfied(queue, for_end)) {
        /* All that was read is done. A signal that came meanwhile would not end the wait. */
        outcome = PyErr_CheckSignals();
        if (outcome < 0) {
            break;
        }
        FdioOutcome waited = wait_as_reader(connection, queue, for_end, deadline);
        if (waited == FDIO_READY && read_once(connection) < 0) {
            keep_failure(connection);
            atomic_store(&connection->handed_over, true);
            break;
        }
        if (waited == FDIO_KICKED || (waited == FDIO_TIMED_OUT && time_left(deadline) == 0)) {
            break;
        }
    }
    if (connection->stopped) {
        receive_close_kick(connection);
    }
    return outcome;
}

static void
unlink_waiter(ConnectionObject *connection, Waiter *waiter)
{
    Waiter **link = &connection->waiters;

    while (*link != waiter) {
        link = &(*link)->next;
    }
    *link = waiter->next;
}

static void
append_waiter(ConnectionObject *connection, Waiter *waiter)
{
    Waiter **link = &connection->waiters;

    while (*link != NULL) {
        link = &(*link)->next;
    }
    *link = waiter;
}

/* Wait, while another thread reads, to be woken. 0, or -1 with an exception of a signal handler. */
static int
wait_for_others(ConnectionObject *connection, ItemQueueObject *queue, bool for_end,
                int64_t deadline)
{
    Waiter waiter = {.lock = PyThread_allocate_lock(), .queue = queue, .for_end = for_end};
    PyLockStatus status;
    int outcome = 0;

    if (waiter.lock == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (PyErr_CheckSignals() < 0) {
        PyThread_free_lock(waiter.lock);
        return -1;
    }
    (void)PyThread_acquire_lock(waiter.lock, NOWAIT_LOCK);
    append_waiter(connection, &waiter);
    int64_t left = sleep_left(connection, deadline);
    Py_BEGIN_ALLOW_THREADS
        status =
            PyThread_acquire_lock_timed(waiter.lock, left < 0 ? -1 : (PY_TIMEOUT_T)left * 1000, 1);
    Py_END_ALLOW_THREADS
    unlink_waiter(connection, &waiter);
    if (status == PY_LOCK_INTR && PyErr_CheckSignals() < 0) {
        outcome = -1;
        if (waiter.woken) {
            /* What woke this thread is for another one, then. */
            receive_wake(connection, queue, queue->ended);
            (void)offer_role(connection);
        }
    }
    PyThread_free_lock(waiter.lock);
    return outcome;
}

int
receive_wait(ConnectionObject *connection, ItemQueueObject *queue, bool for_end, int64_t deadline)
{
    int outcome = 0;

    Py_INCREF(connection);
    Py_INCREF(queue);
    while (outcome == 0 && !is_satisfied(queue, for_end) && !connection->stopped) {
        if (connection->queues != NULL && !atomic_load(&connection->handed_over) &&
            !connection->at_end && role_try_take(connection)) {
            atomic_fetch_add(&connection->role_uses, 1);
            outcome = read_for(connection, queue, for_end, deadline);
            role_leave(connection);
        } else {
            outcome = wait_for_others(connection, queue, for_end, deadline);
        }
        if (time_left(deadline) == 0) {
            break;
        }
    }
    /* A thread whose time is over may have been offered the role in this moment: it is for another
     * one, then. */
    if (!is_satisfied(queue, for_end) && !atomic_load(&connection->role_taken)) {
        role_offer(connection);
    }
    Py_DECREF(queue);
    Py_DECREF(connection);
    return outcome;
}

/* ---- the receiver ---- */

static void
park(ConnectionObject *connection, PY_TIMEOUT_T microseconds)
{
    if (PyThread_acquire_lock_timed(connection->receiver_lock, microseconds, 0) ==
        PY_LOCK_ACQUIRED) {
        atomic_store(&connection->receiver_woken, false);
    }
}

/* Without the GIL: wait until the role is the receiver's; whether it was handed over to it. */
static bool
await_role(ConnectionObject *connection, unsigned *seen_uses)
{
    for (;;) {
        if (atomic_load(&connection->handed_over)) {
            if (role_try_take(connection)) {
                atomic_store(&connection->handed_over, false);
                return true;
            }
            park(connection, QUIET_MS * 1000);
            continue;
        }
        unsigned uses = atomic_load(&connection->role_uses);
        if ((uses == *seen_uses || atomic_load(&connection->has_callbacks)) &&
            role_try_take(connection)) {
            return false;
        }
        if (uses != *seen_uses) {
            *seen_uses = uses;
            park(connection, QUIET_MS * 1000);
            continue;
        }
        /* One thread has been reading for a while: it wakes the receiver when it leaves. */
        atomic_store(&connection->receiver_wanted, true);
        if (atomic_load(&connection->role_taken)) {
            park(connection, -1);
        }
    }
}

/* The receiver leaves the role to a waiting thread, if there is one, and keeps out of its way for a
 * while. */
static void
role_leave_as_receiver(ConnectionObject *connection, unsigned *seen_uses)
{
    atomic_store(&connection->role_taken, false);
    if (connection->waiters != NULL && !atomic_load(&connection->has_callbacks)) {
        *seen_uses = atomic_load(&connection->role_uses) - 1;
        (void)offer_role(connection);
    }
}

/* All that was read, with the role held, which is free afterwards. -1 with an exception. */
static int
dispatch_as_receiver(ConnectionObject *connection, unsigned *seen_uses)
{
    for (;;) {
        NextOutcome next = dispatch_plain(connection);
        if (next != NEXT_PYTHON) {
            role_leave_as_receiver(connection, seen_uses);
            return next == NEXT_ERROR ? -1 : 0;
        }
        if (dispatch_python(connection) < 0) {
            return -1;
        }
        if (!role_try_take(connection)) {
            return 0; /* Another thread has begun to read, and goes on from here. */
        }
    }
}

/* Without the GIL: wait for the role and read, until there is something to do that takes the GIL.
 */
static void
receive_without_gil(ConnectionObject *connection, unsigned *seen_uses)
{
    for (;;) {
        connection->read_errno = 0;
        if (await_role(connection, seen_uses)) {
            return;
        }
        fill(connection);
        status_answer(connection);
        if (connection->read_errno != 0 || connection->at_end || connection->large.bytes != NULL ||
            connection->buffer.end > connection->buffer.start) {
            return;
        }
        receive_release_role(connection);
    }
}

/* Read on, and do what was read. -1 with an exception. */
static int
receive_more(ConnectionObject *connection, unsigned *seen_uses)
{
    Py_BEGIN_ALLOW_THREADS
        receive_without_gil(connection, seen_uses);
    Py_END_ALLOW_THREADS
    connection_flush(connection);
    if (connection->failure != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(connection->failure), connection->failure);
        return -1;
    }
    if (check_filled(connection) < 0 || dispatch_as_receiver(connection, seen_uses) < 0) {
        return -1;
    }
    if (connection->at_end) {
        dispatch_set_end_error(connection);
        return -1;
    }
    return 0;
}

PyObject *
receive_run(ConnectionObject *connection)
{
    unsigned seen_uses = atomic_load(&connection->role_uses);

    while (receive_more(connection, &seen_uses) == 0) {
    }
    /* Nobody reads from here on; who waits is woken when its queue ends. */
    connection->at_end = true;
    return NULL;
}

void
receive_stop(ConnectionObject *connection)
{
    connection->at_end = connection->stopped = true;
    while (offer_role(connection)) {
    }
    if (connection->reader_queue != NULL) {
        kick_reader(connection);
    } else {
        receive_close_kick(connection);
    }
}

void
receive_disown(ConnectionObject *connection)
{
    /* The threads that waited are the parent's, and so is what a kick would reach. */
    connection->waiters = NULL;
    connection->reader_queue = NULL;
    connection->at_end = connection->stopped = true;
    receive_close_kick(connection);
}
