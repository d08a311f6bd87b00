/* What becomes of a message that was read.

   Most messages take no Python code: a payload is put into a queue, a channel is closed. Any thread
   that reads may do that, for no signal handler can raise in the middle of it. The others
   (callbacks, exec requests, channels inside items) are the receiver thread's. */
#include "connection.h"

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
        receive_release_role(connection);
        return outcome;
    }
    if (frame->code == MESSAGE_CHANNEL_EXEC) {
        /* Data for the channel may follow at once. */
        channel = PyObject_CallMethod(connection->factory, "new", "i", (int)frame->channel);
    }
    receive_release_role(connection);
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
        receive_release_role(connection);
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_INCREF(queue);
    if (queue->callback == Py_None) {
        outcome = put_with_channels(connection, queue, payload);
        receive_release_role(connection);
    } else {
        receive_release_role(connection);
        outcome = call_back(connection, queue, id, payload, is_value);
    }
    Py_DECREF(queue);
    return outcome;
}

/* The message at which plain dispatch stopped, with the role held; it is free afterwards. */
int
dispatch_python(ConnectionObject *connection)
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
            receive_release_role(connection);
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
NextOutcome
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
                if (large_is_due(&frame)) {
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
void
dispatch_set_end_error(ConnectionObject *connection)
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
