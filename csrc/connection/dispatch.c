/* What becomes of a message that was read.

   Most messages take no Python code: a payload is put into a queue, a channel is closed. Any thread
   that reads may do that. The others (callbacks, exec requests, channels inside items) are the
   receiver thread's.

   Without a GIL, another thread may let go of a queue while one that reads looks at it. To take it
   apart could run Python code (what its callback holds, what waits in it). So it is set aside, and
   the receiver takes it apart, just as it handles messages that need Python code. */
#include "connection/dispatch.h"

#include "connection/large.h"
#include "connection/stacks.h"
#include "connection/timeline.h"
#include "connection/waking.h"

/* ---- queues that others let go of ---- */

#ifdef Py_GIL_DISABLED
/* From here to unlook, this thread takes no queue apart. */
static void
look(ConnectionObject *connection)
{
    atomic_store_explicit(&connection->dispatcher, PyThread_get_thread_ident(),
                          memory_order_relaxed);
}

static void
unlook(ConnectionObject *connection)
{
    atomic_store_explicit(&connection->dispatcher, 0, memory_order_relaxed);
}

bool
dispatch_keeps(ItemQueueObject *queue)
{
    ConnectionObject *connection = queue->connection;
    void *dead;

    if (connection == NULL || atomic_load_explicit(&connection->dispatcher, memory_order_relaxed) !=
                                  PyThread_get_thread_ident()) {
        return false;
    }
    dead = atomic_load(&connection->dead);
    do {
        queue->next_dead = dead;
    } while (!atomic_compare_exchange_weak(&connection->dead, &dead, queue));
    return true;
}

static bool
keeps_some(const ConnectionObject *connection)
{
    return atomic_load(&connection->dead) != NULL;
}

void
dispatch_let_go(ConnectionObject *connection)
{
    ItemQueueObject *queue = atomic_exchange(&connection->dead, NULL);

    while (queue != NULL) {
        ItemQueueObject *next = queue->next_dead;
        Py_TYPE(queue)->tp_dealloc((PyObject *)queue);
        queue = next;
    }
}
#else
#define look(connection) ((void)(connection))
#define unlook(connection) ((void)(connection))
#define keeps_some(connection) ((void)(connection), false)
#endif

/* ---- what is done without Python code ---- */

/* A reference; NULL: there is none, or an error is set. */
static ItemQueueObject *
find_queue(ConnectionObject *connection, int32_t id)
{
    bool is_disowned = connection->queues == NULL;
    PyObject *key = is_disowned ? NULL : PyLong_FromLong(id);
    PyObject *queue = NULL;

    if (key != NULL) {
        (void)PyDict_GetItemRef(connection->queues, key, &queue);
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

/* Whether there is a channel in the value. What is no value has none: its receiver is told. */
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
    PLAIN_ERROR = -1, /* MemoryError is set */
    PLAIN_DONE,
    PLAIN_NOT, /* this takes Python code */
} PlainOutcome;

static PlainOutcome
plain_put(ItemQueueObject *queue, PyObject *object, bool built)
{
    PutOutcome outcome = itemqueue_put(queue, object, built);

    return outcome == PUT_DONE ? PLAIN_DONE : outcome == PUT_ERROR ? PLAIN_ERROR : PLAIN_NOT;
}

/* What is seen of a queue may have changed when an item comes to it: then itemqueue_put tells. */
static bool
is_for_callback(QueueSight sight)
{
    return sight.callback == CALLBACK_DIRECT;
}

/* With as many items waiting as gateway_base says, the receiver waits for a callback that was set
 * while it was busy. */
enum { MOST_BEHIND = 100 };

static bool
is_behind(QueueSight sight)
{
    return sight.callback == CALLBACK_DRAINING && sight.count >= MOST_BEHIND;
}

static bool
is_for_nobody(const ItemQueueObject *queue, QueueSight sight)
{
    return sight.ended || (queue->dropped && sight.callback == CALLBACK_NONE);
}

static PlainOutcome
plain_data(ItemQueueObject *queue, const char *payload, size_t size)
{
    QueueSight sight = itemqueue_look(queue);

    if (is_for_nobody(queue, sight)) {
        return PLAIN_DONE;
    }
    if (is_for_callback(sight) || is_behind(sight) || holds_channel(payload, size)) {
        return PLAIN_NOT;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(payload, (Py_ssize_t)size);
    if (bytes == NULL) {
        return PLAIN_ERROR;
    }
    PlainOutcome outcome = plain_put(queue, bytes, false);
    Py_DECREF(bytes);
    return outcome;
}

/* The payload was that value, and nothing else. */
static PlainOutcome
plain_value(ItemQueueObject *queue, PyObject *value)
{
    QueueSight sight = itemqueue_look(queue);

    if (is_for_nobody(queue, sight)) {
        return PLAIN_DONE;
    }
    return is_for_callback(sight) || is_behind(sight) ? PLAIN_NOT : plain_put(queue, value, true);
}

/* The text of the error is kept as it came; what asks for it reads it. */
static int
keep_error(ItemQueueObject *queue, const char *payload, size_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize(payload, (Py_ssize_t)size);
    int outcome = bytes == NULL ? -1 : PyList_Append(queue->errors, bytes);

    Py_XDECREF(bytes);
    return outcome;
}

/* Without the GIL, the Channel may go while its error is kept, and then nobody would tell it. */
static bool
takes_error(const Frame *frame)
{
#ifdef Py_GIL_DISABLED
    return frame->code == MESSAGE_CHANNEL_CLOSE_ERROR;
#else
    (void)frame;
    return false;
#endif
}

static PlainOutcome
plain_close(ItemQueueObject *queue, const Frame *frame)
{
    if (queue->dropped || itemqueue_has_callback(queue) || takes_error(frame)) {
        return PLAIN_NOT;
    }
    if (frame->code == MESSAGE_CHANNEL_CLOSE_ERROR &&
        keep_error(queue, frame->payload, frame->size) < 0) {
        return PLAIN_ERROR;
    }
    bool may_send = frame->code == MESSAGE_CHANNEL_LAST_MESSAGE;
    if (!may_send) {
        queue->closed = true;
    }
    int ended = itemqueue_end_plain(queue, frame->channel, may_send);
    return ended < 0 ? PLAIN_ERROR : ended == 0 ? PLAIN_NOT : PLAIN_DONE;
}

/* `value`: the payload was that, and nothing else, or NULL. */
static PlainOutcome
plain_message(ConnectionObject *connection, const Frame *frame, PyObject *value)
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
    PlainOutcome outcome;
    if (value != NULL) {
        outcome = plain_value(queue, value);
    } else if (frame->code == MESSAGE_CHANNEL_DATA) {
        outcome = plain_data(queue, frame->payload, frame->size);
    } else {
        outcome = plain_close(queue, frame);
    }
    Py_DECREF(queue);
    return outcome;
}

static PlainOutcome
plain_large(ConnectionObject *connection)
{
    LargePayload *large = &connection->large;

    if (!large->is_complete && large_complete(large) < 0) {
        return PLAIN_ERROR;
    }
    PlainOutcome outcome =
        plain_message(connection, &large->frame, large->is_value ? large->bytes : NULL);
    if (outcome == PLAIN_DONE) {
        Py_CLEAR(large->bytes);
    }
    return outcome;
}

/* ---- what takes Python code: the receiver's ---- */

/* The receiver is about to run Python code. Unless it yields, what follows waits for it. */
static void
step_out(ConnectionObject *connection, bool yields)
{
    Told told = NULL;

    reading_receiver_away(&connection->reading, yields, &told);
    waking_wake(connection, told);
}

static PyObject *
build_with_channels(ConnectionObject *connection, ItemQueueObject *queue, PyObject *payload)
{
    LoadOptions options = itemqueue_options(queue);

    options.channels = connection->factory;
    return load_value(connection->codec, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload),
                      &options);
}

static int
call_received(ConnectionObject *connection, int code, int32_t id, PyObject *payload,
              PyObject *channel)
{
    PyObject *result =
        PyObject_CallFunction(connection->received, "iiOO", code, (int)id, payload, channel);

    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The callback failed, or its item could not be built. */
static int
callback_failed(ConnectionObject *connection, int32_t id)
{
    PyObject *type, *error, *traceback;

    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        (void)PyException_SetTraceback(error, traceback);
    }
    PyObject *result =
        PyObject_CallMethod(connection->factory, "_callback_failed", "iO", (int)id, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The queue has ended while its callback ran: the end marker was left to the receiver. What is
   raised already stays raised. */
static int
end_callback(ConnectionObject *connection, ItemQueueObject *queue)
{
    PyObject *type, *error, *traceback;

    PyErr_Fetch(&type, &error, &traceback);
    PyObject *result = PyObject_CallMethod(connection->factory, "_end_callback", "O", queue);
    Py_XDECREF(result);
    if (type != NULL) {
        PyErr_Restore(type, error, traceback);
    }
    return result == NULL ? -1 : 0;
}

/* Give a value to the callback, which is let go of; its failure is Python's to handle. */
static int
call_back(ConnectionObject *connection, ItemQueueObject *queue, int32_t id, PyObject *callback,
          PyObject *value, Py_ssize_t size)
{
    step_out(connection, true);
    int64_t begun = timeline_begin(connection);
    PyObject *result = PyObject_CallOneArg(callback, value);
    timeline_note(queue, TIMELINE_CALLED, begun, size);
    bool has_ended = reading_called(itemqueue_reading(queue), &queue->arrived);
    Py_DECREF(callback);
    int outcome = result == NULL ? callback_failed(connection, id) : 0;
    Py_XDECREF(result);
    if (has_ended && end_callback(connection, queue) < 0) {
        outcome = -1;
    }
    return outcome;
}

static int
catch_up(ConnectionObject *connection, ItemQueueObject *queue, int32_t id)
{
    step_out(connection, true);
    PyObject *result = PyObject_CallMethod(connection->factory, "_catch_up", "iO", (int)id, queue);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* A message that is no item. Others may receive while it is done, but for what is meant for the
   messages that follow. */
static int
python_request(ConnectionObject *connection, const Frame *frame, PyObject *payload)
{
    PyObject *channel = NULL;

    if (frame->code == MESSAGE_STATUS && stacks_were_told(connection, frame->channel)) {
        return 0;
    }
    step_out(connection, frame->code > MESSAGE_CHANNEL_EXEC);
    if (frame->code == MESSAGE_CHANNEL_EXEC) {
        /* Data for the channel may follow at once, or its end, which is told to this very one. */
        channel = PyObject_CallMethod(connection->factory, "new", "i", (int)frame->channel);
        if (channel == NULL) {
            return -1;
        }
        step_out(connection, true);
    }
    int outcome = call_received(connection, frame->code, frame->channel, payload,
                                channel != NULL ? channel : Py_None);
    Py_XDECREF(channel);
    return outcome;
}

/* An item for a callback, or with channels inside: those must be there before the next message,
   which may be for them. What can't be read is told to whoever receives it. */
static int
python_item(ConnectionObject *connection, int32_t id, PyObject *payload, bool is_value)
{
    ItemQueueObject *queue = find_queue(connection, id);
    PyObject *value = NULL;
    int outcome = -1;

    if (queue == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    step_out(connection, false);
    value = is_value ? Py_NewRef(payload) : build_with_channels(connection, queue, payload);
    bool is_unreadable = value == NULL && codec_finds_unreadable(connection->codec);
    bool is_callbacks = value == NULL && is_for_callback(itemqueue_look(queue));
    if (value == NULL && (!is_unreadable || is_callbacks)) {
        outcome = is_callbacks ? callback_failed(connection, id) : -1;
        goto done;
    }
    if (is_unreadable) {
        PyErr_Clear();
    }
    PyObject *callback = NULL;
    switch (is_unreadable ? itemqueue_put(queue, payload, false)
                          : itemqueue_put_to_call(queue, value, true, &callback)) {
    case PUT_DONE:
        outcome = is_behind(itemqueue_look(queue)) ? catch_up(connection, queue, id) : 0;
        break;
    case PUT_IS_FOR_CALLBACK:
        outcome = callback == NULL ? 0
                                   : call_back(connection, queue, id, callback, value,
                                               PyBytes_GET_SIZE(payload));
        break;
    case PUT_ERROR:
        break;
    }
done:
    Py_XDECREF(value);
    Py_DECREF(queue);
    return outcome;
}

int
dispatch_python(ConnectionObject *connection)
{
    LargePayload *large = &connection->large;
    Frame frame;
    PyObject *payload;
    bool is_value = false;

    if (keeps_some(connection)) {
        step_out(connection, true);
        dispatch_let_go(connection);
        return 0;
    }
    if (large->bytes != NULL) {
        frame = large->frame;
        is_value = large->is_value;
        payload = large->bytes;
        large->bytes = NULL;
    } else {
        (void)frame_peek(&connection->buffer, &frame);
        payload = PyBytes_FromStringAndSize(frame.payload, (Py_ssize_t)frame.size);
        if (payload == NULL) {
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

/* ---- in turn ---- */

/* Do what one message asks, or begin a large one. */
static PlainOutcome
plain_next(ConnectionObject *connection, bool *more)
{
    Frame frame;

    *more = false;
    if (connection->large.bytes != NULL) {
        *more = large_missing(&connection->large) == 0;
        return *more ? plain_large(connection) : PLAIN_DONE;
    }
    switch (frame_peek(&connection->buffer, &frame)) {
    case FRAME_INVALID:
        connection->broken = BROKEN_HEADER;
        return PLAIN_DONE;
    case FRAME_PARTIAL:
        return large_is_due(&frame) && large_begin(connection, &frame) < 0 ? PLAIN_ERROR
                                                                           : PLAIN_DONE;
    case FRAME_NONE:
        return PLAIN_DONE;
    case FRAME_WHOLE:
        break;
    }
    PlainOutcome outcome = plain_message(connection, &frame, NULL);
    if (outcome == PLAIN_DONE) {
        frame_consume(&connection->buffer, &frame);
        *more = true;
    }
    return outcome;
}

static DispatchOutcome
plain(ConnectionObject *connection)
{
    bool more = connection->broken != BROKEN_MEMORY && connection->broken != BROKEN_HEADER;

    while (more) {
        PlainOutcome outcome = plain_next(connection, &more);
        if (outcome == PLAIN_NOT) {
            return DISPATCH_PYTHON;
        }
        if (outcome == PLAIN_ERROR) {
            PyErr_Clear();
            connection->broken = BROKEN_MEMORY;
            more = false;
        }
        if (keeps_some(connection)) {
            return DISPATCH_PYTHON;
        }
    }
    return DISPATCH_READ;
}

DispatchOutcome
dispatch_plain(ConnectionObject *connection)
{
    look(connection);
    DispatchOutcome outcome = plain(connection);
    unlook(connection);
    return outcome;
}

bool
dispatch_is_due(const ConnectionObject *connection)
{
    Frame frame;

    if (connection->broken != BROKEN_NOT || keeps_some(connection)) {
        return true;
    }
    if (connection->large.bytes != NULL) {
        return large_missing(&connection->large) == 0;
    }
    FrameOutcome next = frame_peek(&connection->buffer, &frame);
    return next == FRAME_WHOLE || next == FRAME_INVALID;
}

static void
set_header_error(ConnectionObject *connection)
{
    const FrameBuffer *buffer = &connection->buffer;
    PyObject *header = PyBytes_FromStringAndSize(buffer->bytes + buffer->start, FRAME_HEADER);

    if (header != NULL) {
        PyErr_Format(connection->codec->load_error, "not a message header: %R", header);
        Py_DECREF(header);
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

void
dispatch_set_error(ConnectionObject *connection)
{
    switch (connection->broken) {
    case BROKEN_READ:
        PyErr_Format(PyExc_EOFError, "can't read: %s", strerror(connection->read_errno));
        break;
    case BROKEN_HEADER:
        set_header_error(connection);
        break;
    case BROKEN_MEMORY:
        PyErr_NoMemory();
        break;
    case BROKEN_END:
    case BROKEN_NOT:
        set_end_error(connection);
        break;
    }
}
