/* A large payload on its way into an object of its own: it is read to where it stays. One that is
   nothing but a bytes value becomes that value without a copy. */
#include "connection/large.h"

enum {
    BYTES_VALUE_HEADER = 5,
    /* Payloads from here on that are not yet wholly read get an object of their own. */
    LARGE_PAYLOAD = 64 * 1024,
};

/* Whether the payload is nothing but one bytes value. */
static bool
is_bytes_value(const Frame *frame)
{
    return frame->code == MESSAGE_CHANNEL_DATA && frame->present >= BYTES_VALUE_HEADER &&
           frame->payload[0] == OP_BYTES &&
           (size_t)(uint32_t)wire_get_int4(frame->payload + 1) + BYTES_VALUE_HEADER + 1 ==
               frame->size;
}

bool
large_is_due(const Frame *frame)
{
    return frame->size >= LARGE_PAYLOAD && frame->present >= BYTES_VALUE_HEADER;
}

/* Begin to read a payload into an object of its own. */
int
large_begin(ConnectionObject *connection, Frame *frame)
{
    LargePayload *large = &connection->large;
    size_t skip = is_bytes_value(frame) ? BYTES_VALUE_HEADER : 0;

    large->size = skip > 0 ? frame->size - BYTES_VALUE_HEADER - 1 : frame->size;
    /* The byte after a bytes value, its STOP, is read into the place of the terminating NUL. */
    large->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)large->size);
    if (large->bytes == NULL) {
        return -1;
    }
    large->to = PyBytes_AS_STRING(large->bytes);
    large->is_value = skip > 0;
    large->is_complete = false;
    large->frame = *frame;
    large->filled = frame->present - skip;
    memcpy(large->to, frame->payload + skip, large->filled);
    frame_consume(&connection->buffer, frame);
    if (frame->size >= FDIO_HUGE) {
        fdio_enlarge_pipe(connection->read_fd);
    }
    return 0;
}

size_t
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

/* All is read: check what is where the STOP should be. */
int
large_complete(LargePayload *large)
{
    char *end = PyBytes_AS_STRING(large->bytes) + large->size;

    large->is_complete = true;
    if (large->is_value && *end == OP_STOP) {
        *end = '\0';
    } else if (large->is_value && large_undo_value(large) < 0) {
        return -1;
    }
    large->frame.payload = PyBytes_AS_STRING(large->bytes);
    return 0;
}
