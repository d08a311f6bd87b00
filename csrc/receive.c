/* Receiving: who reads, and what becomes of a message.

   One thread at a time reads a connection: the one that holds the reader role. By default that is
   the receiver thread, which is blocked in poll() meanwhile. A thread that waits for an item takes
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
    /* Payloads from here on that are not yet wholly read go straight into an object of their own.
     */
    LARGE_PAYLOAD = 64 * 1024,
    /* A connection that carries such a payload gets a larger pipe. */
    HUGE_PAYLOAD = 512 * 1024,
    ENLARGED_PIPE = 1024 * 1024,
    QUIET_MS = 1,
    BYTES_VALUE_HEADER = 5,
};

/* ---- the role ---- */

static bool
role_try_take(ConnectionObject *connection)
{
    return !atomic_exchange(&connection->role_taken, true);
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

/* A waiting thread leaves the role. */
static void
role_leave(ConnectionObject *connection)
{
    atomic_store(&connection->role_taken, false);
    if (atomic_load(&connection->handed_over)) {
        wake_receiver(connection);
    } else if (!offer_role(connection) && (atomic_exchange(&connection->receiver_wanted, false) ||
                                           atomic_load(&connection->has_callbacks))) {
        wake_receiver(connection);
    }
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

/* ---- what is done without Python code ---- */

static ItemQueueObject *
find_queue(ConnectionObject *connection, int32_t id)
{
    PyObject *key = PyLong_FromLong(id);
    PyObject *queue = NULL;

    if (key != NULL) {
        queue = PyDict_GetItemWithError(connection->queues, key);
        Py_DECREF(key);
    }
    return (ItemQueueObject *)queue;
}

/* Whether `op` says how many bytes follow its operand; its fixed operand's size, or -1 for what is
 * no opcode. */
static int
operand_size(unsigned char op, bool *counted)
{
    *counted = op == OP_BYTES || op == OP_LONGINT || op == OP_LONGLONG || op == OP_PY2STRING ||
               op == OP_PY3STRING || op == OP_UNICODE;
    switch (op) {
    case OP_FLOAT:
        return 8;
    case OP_COMPLEX:
        return 16;
    case OP_NONE:
    case OP_TRUE:
    case OP_FALSE:
    case OP_NEWDICT:
    case OP_SETITEM:
        return 0;
    case OP_BUILDTUPLE:
    case OP_FROZENSET:
    case OP_SET:
    case OP_INT:
    case OP_LONG:
    case OP_NEWLIST:
        return 4;
    default:
        return *counted ? 4 : -1;
    }
}

/* Whether a channel stands in the value. What is no value holds none: who receives it is told. */
static bool
holds_channel(const char *payload, size_t size)
{
    if (memchr(payload, OP_CHANNEL, size) == NULL) {
        return false;
    }
    size_t at = 0;
    while (at < size && payload[at] != OP_STOP) {
        bool counted;
        if (payload[at] == OP_CHANNEL) {
            return true;
        }
        int operand = operand_size((unsigned char)payload[at], &counted);
        if (operand < 0 || size - at - 1 < (size_t)operand) {
            return false;
        }
        size_t skip = 1 + (size_t)operand;
        if (counted) {
            int32_t more = wire_get_int4(payload + at + 1);
            if (more < 0) {
                return false;
            }
            skip += (size_t)more;
        }
        if (skip > size - at) {
            return false;
        }
        at += skip;
    }
    return false;
}

typedef enum {
    PLAIN_ERROR = -1, /* an exception is set */
    PLAIN_DONE,
    PLAIN_NOT, /* this takes Python code */
} PlainOutcome;

static PlainOutcome
plain_data(ItemQueueObject *queue, const char *payload, size_t size)
{
    if (queue->channel == NULL && queue->callback == Py_None) {
        return PLAIN_DONE;
    }
    if (queue->callback != Py_None || holds_channel(payload, size)) {
        return PLAIN_NOT;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(payload, (Py_ssize_t)size);
    if (bytes == NULL) {
        return PLAIN_ERROR;
    }
    int outcome = itemqueue_put(queue, bytes, false);
    Py_DECREF(bytes);
    return outcome < 0 ? PLAIN_ERROR : PLAIN_DONE;
}

/* The text of the error is put beside the channel as it came; what asks for it reads it. */
static int
keep_error(ChannelObject *channel, const char *payload, size_t size)
{
    PyObject *errors = PyObject_GetAttrString((PyObject *)channel, "_remoteerrors");
    PyObject *bytes = errors == NULL ? NULL : PyBytes_FromStringAndSize(payload, (Py_ssize_t)size);
    int outcome = -1;

    if (bytes != NULL && PyList_CheckExact(errors)) {
        outcome = PyList_Append(errors, bytes);
    } else if (bytes != NULL) {
        PyErr_SetString(PyExc_TypeError, "Channel._remoteerrors must be a list");
    }
    Py_XDECREF(bytes);
    Py_XDECREF(errors);
    return outcome;
}

static PlainOutcome
plain_close(ConnectionObject *connection, ItemQueueObject *queue, const Frame *frame)
{
    if (queue->channel == NULL || queue->callback != Py_None) {
        return PLAIN_NOT;
    }
    if (frame->code == MESSAGE_CHANNEL_CLOSE_ERROR &&
        keep_error(queue->channel, frame->payload, frame->size) < 0) {
        return PLAIN_ERROR;
    }
    PyObject *key = PyLong_FromLong(frame->channel);
    if (key == NULL) {
        return PLAIN_ERROR;
    }
    Py_INCREF(queue);
    if (frame->code != MESSAGE_CHANNEL_LAST_MESSAGE) {
        queue->channel->closed = 1;
    }
    int outcome = PyDict_DelItem(connection->queues, key);
    itemqueue_end(queue);
    Py_DECREF(queue);
    Py_DECREF(key);
    return outcome < 0 ? PLAIN_ERROR : PLAIN_DONE;
}

static PlainOutcome
plain_message(ConnectionObject *connection, const Frame *frame)
{
    if (frame->code < MESSAGE_CHANNEL_DATA) {
        return PLAIN_NOT;
    }
    ItemQueueObject *queue = find_queue(connection, frame->channel);
    if (queue == NULL) {
        return PyErr_Occurred()                             ? PLAIN_ERROR
               : frame->code == MESSAGE_CHANNEL_CLOSE_ERROR ? PLAIN_NOT
                                                            : PLAIN_DONE;
    }
    if (frame->code == MESSAGE_CHANNEL_DATA) {
        return plain_data(queue, frame->payload, frame->size);
    }
    return plain_close(connection, queue, frame);
}

/* ---- large payloads ---- */

/* Whether the payload is nothing but one bytes value. */
static bool
is_bytes_value(const Frame *frame)
{
    return frame->code == MESSAGE_CHANNEL_DATA && frame->present >= BYTES_VALUE_HEADER &&
           frame->payload[0] == OP_BYTES &&
           (size_t)(uint32_t)wire_get_int4(frame->payload + 1) + BYTES_VALUE_HEADER + 1 ==
               frame->size;
}

/* Begin to read a payload into an object of its own. */
static int
large_begin(ConnectionObject *connection, Frame *frame)
{
    LargePayload *large = &connection->large;
    size_t skip = is_bytes_value(frame) ? BYTES_VALUE_HEADER : 0;

    large->size = skip > 0 ? frame->size - BYTES_VALUE_HEADER - 1 : frame->size;
    /* The byte behind a bytes value, its STOP, is read into the place of the terminating NUL. */
    large->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)large->size);
    if (large->bytes == NULL) {
        return -1;
    }
    large->is_value = skip > 0;
    large->frame = *frame;
    large->filled = frame->present - skip;
    memcpy(PyBytes_AS_STRING(large->bytes), frame->payload + skip, large->filled);
    frame_consume(&connection->buffer, frame);
    if (frame->size >= HUGE_PAYLOAD) {
        fdio_enlarge_pipe(connection->read_fd, ENLARGED_PIPE);
    }
    return 0;
}

static size_t
large_missing(const LargePayload *large)
{
    return large->size + (large->is_value ? 1 : 0) - large->filled;
}

/* The payload as it would be without the short cut. */
static int
large_undo_value(LargePayload *large)
{
    PyObject *payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)large->frame.size);

    if (payload == NULL) {
        return -1;
    }
    char *to = PyBytes_AS_STRING(payload);
    to[0] = OP_BYTES;
    wire_put_int4(to + 1, (int32_t)large->size);
    memcpy(to + BYTES_VALUE_HEADER, PyBytes_AS_STRING(large->bytes), large->size + 1);
    Py_SETREF(large->bytes, payload);
    large->is_value = false;
    large->size = large->filled = large->frame.size;
    return 0;
}

/* All is read: check what stands where the STOP should. */
static int
large_complete(LargePayload *large)
{
    char *end = PyBytes_AS_STRING(large->bytes) + large->size;

    if (large->is_value) {
        if (*end != OP_STOP) {
            return large_undo_value(large);
        }
        *end = '\0';
    }
    large->frame.payload = PyBytes_AS_STRING(large->bytes);
    return 0;
}

static PlainOutcome
plain_large(ConnectionObject *connection)
{
    LargePayload *large = &connection->large;
    PlainOutcome outcome = PLAIN_DONE;

    if (large->is_value) {
        ItemQueueObject *queue = find_queue(connection, large->frame.channel);
        if (queue == NULL) {
            outcome = PyErr_Occurred() ? PLAIN_ERROR : PLAIN_DONE;
        } else if (queue->callback != Py_None) {
            return PLAIN_NOT;
        } else if (queue->channel != NULL && itemqueue_put(queue, large->bytes, true) < 0) {
            outcome = PLAIN_ERROR;
        }
    } else {
        outcome = plain_message(connection, &large->frame);
        if (outcome == PLAIN_NOT) {
            return PLAIN_NOT;
        }
    }
    Py_CLEAR(large->bytes);
    return outcome;
}

/* ---- what takes Python code: the receiver's ---- */

static PyObject *
build_with_channels(ConnectionObject *connection, ItemQueueObject *queue, PyObject *payload)
{
    LoadOptions options = queue->options;

    options.channels = connection->factory;
    return load_value(connection->codec, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload),
                      &options);
}

/* A channel inside an item must be there before the next message, which may be for it. What can't
 * be read is told to who receives it. */
static int
put_with_channels(ConnectionObject *connection, ItemQueueObject *queue, PyObject *payload)
{
    PyObject *value = build_with_channels(connection, queue, payload);
    int outcome;

    if (value != NULL) {
        outcome = itemqueue_put(queue, value, true);
        Py_DECREF(value);
        return outcome;
    }
    if (!PyErr_ExceptionMatches(connection->codec->load_error) &&
        !PyErr_ExceptionMatches(PyExc_EOFError)) {
        return -1;
    }
    PyErr_Clear();
    return itemqueue_put(queue, payload, false);
}

static int
call_received(ConnectionObject *connection, int code, int32_t id, PyObject *payload)
{
    PyObject *result = PyObject_CallFunction(connection->received, "iiO", code, (int)id, payload);

    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Give the item to the callback; its failure is Python's to handle. */
static int
call_back(ConnectionObject *connection, ItemQueueObject *queue, int32_t id, PyObject *payload,
          bool is_value)
{
    PyObject *value =
        is_value ? Py_NewRef(payload) : build_with_channels(connection, queue, payload);
    PyObject *result = NULL;

    if (value != NULL) {
        PyObject *callback = Py_NewRef(queue->callback);
        result = PyObject_CallOneArg(callback, value);
        Py_DECREF(callback);
        Py_DECREF(value);
    }
    if (result != NULL) {
        Py_DECREF(result);
        return 0;
    }
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        (void)PyException_SetTraceback(error, traceback);
    }
    result = PyObject_CallMethod(connection->factory, "_callback_failed", "iO", (int)id, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static void
role_release(ConnectionObject *connection)
{
    atomic_store(&connection->role_taken, false);
}

/* A message that is no item. The role is left for the time in which Python code runs, so that
 * others can receive meanwhile. */
static int
python_request(ConnectionObject *connection, const Frame *frame, PyObject *payload)
{
    PyObject *channel = NULL;
    int outcome;

    if (frame->code == MESSAGE_RECONFIGURE) {
        /* It is for the messages that follow. */
        outcome = call_received(connection, frame->code, frame->channel, payload);
        role_release(connection);
        return outcome;
    }
    if (frame->code == MESSAGE_CHANNEL_EXEC) {
        /* Data for the channel may follow at once. */
        channel = PyObject_CallMethod(connection->factory, "new", "i", (int)frame->channel);
    }
    role_release(connection);
    if (frame->code == MESSAGE_CHANNEL_EXEC && channel == NULL) {
        return -1;
    }
    outcome = call_received(connection, frame->code, frame->channel, payload);
    Py_XDECREF(channel);
    return outcome;
}

/* An item for a callback, or with channels inside. The role is left while the callback runs. */
static int
python_item(ConnectionObject *connection, int32_t id, PyObject *payload, bool is_value)
{
    ItemQueueObject *queue = find_queue(connection, id);
    int outcome;

    if (queue == NULL) {
        role_release(connection);
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_INCREF(queue);
    if (queue->callback == Py_None) {
        outcome = put_with_channels(connection, queue, payload);
        role_release(connection);
    } else {
        role_release(connection);
        outcome = call_back(connection, queue, id, payload, is_value);
    }
    Py_DECREF(queue);
    return outcome;
}

/* The message at which plain dispatch stopped, with the role held; it is free afterwards. */
static int
python_next(ConnectionObject *connection)
{
    LargePayload *large = &connection->large;
    Frame frame;
    PyObject *payload;
    bool is_value = false;

    if (large->bytes != NULL) {
        frame = large->frame;
        is_value = large->is_value;
        payload = large->bytes;
        large->bytes = NULL;
    } else {
        (void)frame_peek(&connection->buffer, &frame);
        payload = PyBytes_FromStringAndSize(frame.payload, (Py_ssize_t)frame.size);
        if (payload == NULL) {
            role_release(connection);
            return -1;
        }
        frame_consume(&connection->buffer, &frame);
    }
    int outcome = frame.code == MESSAGE_CHANNEL_DATA
                      ? python_item(connection, frame.channel, payload, is_value)
                      : python_request(connection, &frame, payload);
    Py_DECREF(payload);
    return outcome;
}

/* ---- reading ---- */

typedef enum {
    NEXT_ERROR = -1, /* an exception is set: the input is given up */
    NEXT_READ,       /* all that was read is done, more is needed */
    NEXT_PYTHON,     /* a message that takes Python code is next */
} NextOutcome;

static int
bad_header(ConnectionObject *connection)
{
    const FrameBuffer *buffer = &connection->buffer;
    PyObject *header = PyBytes_FromStringAndSize(buffer->bytes + buffer->start, FRAME_HEADER);

    if (header != NULL) {
        PyErr_Format(connection->codec->load_error, "not a message header: %R", header);
        Py_DECREF(header);
    }
    return NEXT_ERROR;
}

/* Do what the whole messages ask that have been read, as far as that takes no Python code. */
static NextOutcome
dispatch_plain(ConnectionObject *connection)
{
    Frame frame;

    for (;;) {
        PlainOutcome outcome;
        if (connection->large.bytes != NULL) {
            if (large_missing(&connection->large) > 0) {
                return NEXT_READ;
            }
            outcome = plain_large(connection);
        } else {
            switch (frame_peek(&connection->buffer, &frame)) {
            case FRAME_INVALID:
                return bad_header(connection);
            case FRAME_NONE:
                return NEXT_READ;
            case FRAME_PARTIAL:
                if (frame.size >= LARGE_PAYLOAD && frame.present >= BYTES_VALUE_HEADER) {
                    return large_begin(connection, &frame) < 0 ? NEXT_ERROR : NEXT_READ;
                }
                return NEXT_READ;
            case FRAME_WHOLE:
                break;
            }
            outcome = plain_message(connection, &frame);
            if (outcome == PLAIN_DONE) {
                frame_consume(&connection->buffer, &frame);
            }
        }
        if (outcome != PLAIN_DONE) {
            return outcome == PLAIN_ERROR ? NEXT_ERROR : NEXT_PYTHON;
        }
    }
}

/* The message that the end of input cut off, or a clean end. */
static void
set_end_error(ConnectionObject *connection)
{
    const LargePayload *large = &connection->large;
    Frame frame;

    if (large->bytes != NULL) {
        PyErr_Format(PyExc_EOFError, "expected %zu bytes, got %zu", large->frame.size,
                     large->frame.size - large_missing(large));
    } else if (frame_peek(&connection->buffer, &frame) == FRAME_PARTIAL) {
        PyErr_Format(PyExc_EOFError, "expected %zu bytes, got %zu", frame.size, frame.present);
    } else {
        PyErr_Format(PyExc_EOFError, "couldn't load message header, expected %d bytes, got %zu",
                     FRAME_HEADER, connection->buffer.end - connection->buffer.start);
    }
}

/* Read once, which will not block, with the role held. -1 with an exception; at_end is set at the
 * end of input. */
static int
read_once(ConnectionObject *connection)
{
    LargePayload *large = &connection->large;
    FrameBuffer *buffer = &connection->buffer;
    bool to_large = large->bytes != NULL;
    char *to;
    size_t room;
    ssize_t count;
    int error;

    if (to_large) {
        to = PyBytes_AS_STRING(large->bytes) + large->filled;
        room = large_missing(large);
    } else {
        if (!frame_reserve(buffer, READ_SIZE)) {
            PyErr_NoMemory();
            return -1;
        }
        to = buffer->bytes + buffer->end;
        room = buffer->capacity - buffer->end;
    }
    Py_BEGIN_ALLOW_THREADS do
    {
        count = fdio_read(connection->read_fd, to, room);
        error = errno;
    }
    while (count < 0 && error == EINTR)
        ;
    Py_END_ALLOW_THREADS if (count < 0)
    {
        PyErr_Format(PyExc_EOFError, "can't read: %s", strerror(error));
        return -1;
    }
    connection->at_end = count == 0;
    if (!to_large) {
        buffer->end += (size_t)count;
        return 0;
    }
    large->filled += (size_t)count;
    return large_missing(large) > 0 || connection->at_end ? 0 : large_complete(large);
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
    int64_t left = time_left(deadline);
    FdioOutcome outcome;

    connection->reader_queue = queue;
    connection->reader_for_end = for_end;
    Py_BEGIN_ALLOW_THREADS outcome = fdio_wait(connection->read_fd, connection->kick.to_wait, left);
    Py_END_ALLOW_THREADS connection->reader_queue = NULL;
    if (connection->reader_kicked) {
        connection->reader_kicked = false;
        fdio_kick_drain(&connection->kick);
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
        FdioOutcome waited = wait_as_reader(connection, queue, for_end, deadline);
        if (waited == FDIO_INTERRUPTED) {
            outcome = PyErr_CheckSignals();
        } else if (waited != FDIO_READY) {
            break;
        } else if (read_once(connection) < 0) {
            keep_failure(connection);
            atomic_store(&connection->handed_over, true);
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
    (void)PyThread_acquire_lock(waiter.lock, NOWAIT_LOCK);
    append_waiter(connection, &waiter);
    int64_t left = time_left(deadline);
    Py_BEGIN_ALLOW_THREADS status =
        PyThread_acquire_lock_timed(waiter.lock, left < 0 ? -1 : (PY_TIMEOUT_T)left * 1000, 1);
    Py_END_ALLOW_THREADS unlink_waiter(connection, &waiter);
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

/* Without the GIL: wait until the role is the receiver's, and there is something to read (false) or
 * was handed over (true). */
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
            while (fdio_wait(connection->read_fd, -1, FDIO_FOREVER) != FDIO_READY) {
            }
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
        if (python_next(connection) < 0) {
            return -1;
        }
        if (!role_try_take(connection)) {
            return 0; /* Another thread has begun to read, and goes on from here. */
        }
    }
}

/* Read on, and do what was read. -1 with an exception. */
static int
receive_more(ConnectionObject *connection, unsigned *seen_uses)
{
    bool handed;

    Py_BEGIN_ALLOW_THREADS handed = await_role(connection, seen_uses);
    Py_END_ALLOW_THREADS if (connection->failure != NULL)
    {
        PyErr_SetObject((PyObject *)Py_TYPE(connection->failure), connection->failure);
        return -1;
    }
    if ((!handed && read_once(connection) < 0) || dispatch_as_receiver(connection, seen_uses) < 0) {
        return -1;
    }
    if (connection->at_end) {
        set_end_error(connection);
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
