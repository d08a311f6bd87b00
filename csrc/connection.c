/* The type Connection, and sending over it. */
#include "connection.h"

#include <errno.h>
#include <structmember.h>
#include <unistd.h>

/* Larger pieces are not copied for the thread that finishes an interrupted write: their owner is
   kept, also where they are written, but may still be lent to the pipe. */
enum { COPY_LONGEST = 64 * 1024 };

/* ---- the write lock ---- */

/* Wait for the write lock while signal handlers run; -1 if one of them raised. */
static int
lock_to_write(ConnectionObject *connection)
{
    if (PyThread_acquire_lock(connection->write_lock, NOWAIT_LOCK)) {
        return 0;
    }
    for (;;) {
        PyLockStatus status;
        Py_BEGIN_ALLOW_THREADS
            status = PyThread_acquire_lock_timed(connection->write_lock, -1, 1);
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_ACQUIRED) {
            return 0;
        }
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
}

/* What finalizers left, to be written with the lock held. The memory is the caller's. */
static size_t
take_unsent(ConnectionObject *connection, char **bytes)
{
    size_t size = connection->unsent_size;

    *bytes = connection->unsent;
    connection->unsent = NULL;
    connection->unsent_size = connection->unsent_capacity = 0;
    return size;
}

static void
unlock(ConnectionObject *connection)
{
    while (connection->unsent_size > 0) {
        char *bytes;
        size_t size = take_unsent(connection, &bytes);
        struct iovec piece = {bytes, size};
        OutletOutcome written;
        Py_BEGIN_ALLOW_THREADS
            do {
                written = outlet_write(&connection->outlet, &piece, 1);
            } while (written == OUTLET_INTERRUPTED);
        Py_END_ALLOW_THREADS
        PyMem_RawFree(bytes);
        if (written == OUTLET_FAILED) {
            break; /* Who is to be told is gone. */
        }
    }
    PyThread_release_lock(connection->write_lock);
}

void
connection_flush(ConnectionObject *connection)
{
    if (connection->unsent_size > 0 && PyThread_acquire_lock(connection->write_lock, NOWAIT_LOCK)) {
        if (!connection->write_closed && fdio_writable(connection->outlet.fd)) {
            unlock(connection);
        } else {
            PyThread_release_lock(connection->write_lock);
        }
    }
}

/* ---- finishing what a signal interrupted ---- */

typedef struct {
    ConnectionObject *connection;
    struct iovec pieces[OUTLET_MOST_PIECES];
    int count;
    PyObject *owners[OUTLET_MOST_PIECES];
    char *copies[OUTLET_MOST_PIECES];
} Remainder;

static void
remainder_free(Remainder *remainder)
{
    for (int i = 0; i < remainder->count; i++) {
        Py_XDECREF(remainder->owners[i]);
        PyMem_RawFree(remainder->copies[i]);
    }
    Py_DECREF(remainder->connection);
    PyMem_RawFree(remainder);
}

static void
remainder_write(void *argument)
{
    Remainder *remainder = argument;
    ConnectionObject *connection = remainder->connection;
    OutletOutcome written;

    do {
        written = outlet_write(&connection->outlet, remainder->pieces, remainder->count);
    } while (written == OUTLET_INTERRUPTED);
    PyGILState_STATE gil = PyGILState_Ensure();
    unlock(connection);
    remainder_free(remainder);
    PyGILState_Release(gil);
}

static Remainder *
remainder_new(ConnectionObject *connection, const struct iovec *vectors, const Piece *pieces,
              int count)
{
    Remainder *remainder = PyMem_RawCalloc(1, sizeof *remainder);

    if (remainder == NULL) {
        return NULL;
    }
    remainder->connection = (ConnectionObject *)Py_NewRef(connection);
    remainder->count = count;
    for (int i = 0; i < count; i++) {
        remainder->pieces[i] = vectors[i];
        if (pieces[i].size > COPY_LONGEST && pieces[i].owner != NULL) {
            remainder->owners[i] = Py_NewRef(pieces[i].owner);
        } else if (vectors[i].iov_len > 0) {
            remainder->copies[i] = PyMem_RawMalloc(vectors[i].iov_len);
            if (remainder->copies[i] == NULL) {
                remainder_free(remainder);
                return NULL;
            }
            memcpy(remainder->copies[i], vectors[i].iov_base, vectors[i].iov_len);
            remainder->pieces[i].iov_base = remainder->copies[i];
        }
    }
    return remainder;
}

/* A signal handler raised in the middle of a message: another thread, which takes the write lock
 * over, writes the rest. */
static int
finish_elsewhere(ConnectionObject *connection, const struct iovec *vectors, const Piece *pieces,
                 int count)
{
    Remainder *remainder = remainder_new(connection, vectors, pieces, count);

    if (remainder == NULL) {
        return -1;
    }
    if (PyThread_start_new_thread(remainder_write, remainder) == PYTHREAD_INVALID_THREAD_ID) {
        remainder_free(remainder);
        return -1;
    }
    return 0;
}

/* ---- writing ---- */

static int
closed_error(const char *why)
{
    PyErr_Format(PyExc_OSError, "cannot send (already closed?): %s", why);
    return -1;
}

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

/* With the lock held; gives it back, or to the thread that finishes. */
static int
write_locked(ConnectionObject *connection, const Piece *pieces, int count)
{
    struct iovec vectors[OUTLET_MOST_PIECES];

    if (connection->write_closed) {
        PyThread_release_lock(connection->write_lock);
        return closed_error("the sending side is closed");
    }
    for (int i = 0; i < count; i++) {
        vectors[i].iov_base = (char *)pieces[i].bytes;
        vectors[i].iov_len = pieces[i].size;
    }
    for (;;) {
        OutletOutcome written;
        int error;
        Py_BEGIN_ALLOW_THREADS
            written = outlet_write(&connection->outlet, vectors, count);
            error = errno;
        Py_END_ALLOW_THREADS
        if (written == OUTLET_WRITTEN) {
            unlock(connection);
            return 0;
        }
        if (written == OUTLET_FAILED) {
            unlock(connection);
            return closed_error(strerror(error));
        }
        if (PyErr_CheckSignals() < 0) {
            if (untouched(vectors, pieces, count)) {
                unlock(connection);
            } else if (finish_elsewhere(connection, vectors, pieces, count) < 0) {
                /* Half a message was sent, and its rest can't be: nothing may follow it. */
                connection->write_closed = true;
                connection->unsent_size = 0;
                unlock(connection);
            }
            return -1;
        }
    }
}

int
connection_write(ConnectionObject *connection, const Piece *pieces, int count)
{
    if (connection->disowned) {
        return closed_error("the connection belongs to the process that this one was forked from");
    }
    if (connection->write_closed) {
        return closed_error("the sending side is closed");
    }
    return lock_to_write(connection) < 0 ? -1 : write_locked(connection, pieces, count);
}

/* ---- what Python's cold half calls ---- */

PyDoc_STRVAR(send_doc, "send($self, msgcode, channelid, data, /)\n--\n\n"
                       "Send one message; OSError if the connection is closed.");

static PyObject *
connection_send(ConnectionObject *connection, PyObject *args)
{
    int code, channel;
    PyObject *data;
    char header[FRAME_HEADER];

    if (!PyArg_ParseTuple(args, "iiS:send", &code, &channel, &data)) {
        return NULL;
    }
    if (PyBytes_GET_SIZE(data) > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "a payload of %zd bytes, a message takes %d",
                     PyBytes_GET_SIZE(data), INT32_MAX);
        return NULL;
    }
    frame_put_header(header, code, channel, (int32_t)PyBytes_GET_SIZE(data));
    Piece pieces[2] = {
        {header, FRAME_HEADER, NULL},
        {PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), data},
    };
    if (connection_write(connection, pieces, pieces[1].size > 0 ? 2 : 1) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
keep_unsent(ConnectionObject *connection, int code, int channel)
{
    if (connection->unsent_capacity - connection->unsent_size < FRAME_HEADER) {
        size_t capacity = connection->unsent_capacity + 16 * FRAME_HEADER;
        char *unsent = PyMem_RawRealloc(connection->unsent, capacity);
        if (unsent == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        connection->unsent = unsent;
        connection->unsent_capacity = capacity;
    }
    frame_put_header(connection->unsent + connection->unsent_size, code, channel, 0);
    connection->unsent_size += FRAME_HEADER;
    return 0;
}

PyDoc_STRVAR(send_soon_doc,
             "send_soon($self, msgcode, channelid, /)\n--\n\n"
             "Send a message without payload, without ever waiting: where the other side "
             "does not read, it goes out in front of the next message.");

static PyObject *
connection_send_soon(ConnectionObject *connection, PyObject *args)
{
    int code, channel;

    if (!PyArg_ParseTuple(args, "ii:send_soon", &code, &channel)) {
        return NULL;
    }
    if (connection->disowned || connection->write_closed) {
        Py_RETURN_NONE;
    }
    if (keep_unsent(connection, code, channel) < 0) {
        return NULL;
    }
    connection_flush(connection);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_write_doc,
             "close_write($self, timeout=0.0, /)\n--\n\n"
             "Send nothing more. Returns whether, after timeout seconds, no thread is "
             "writing, so that the descriptor may be closed.");

static PyObject *
connection_close_write(ConnectionObject *connection, PyObject *args)
{
    double seconds = 0;
    PyLockStatus status;

    if (!PyArg_ParseTuple(args, "|d:close_write", &seconds)) {
        return NULL;
    }
    connection->write_closed = true;
    if (connection->disowned) {
        Py_RETURN_TRUE;
    }
    Py_BEGIN_ALLOW_THREADS
        status =
            PyThread_acquire_lock_timed(connection->write_lock, (PY_TIMEOUT_T)(seconds * 1e6), 0);
    Py_END_ALLOW_THREADS
    if (status == PY_LOCK_ACQUIRED) {
        PyThread_release_lock(connection->write_lock);
    }
    return PyBool_FromLong(status == PY_LOCK_ACQUIRED);
}

PyDoc_STRVAR(attach_doc,
             "attach($self, factory, queues, received, /)\n--\n\n"
             "Name what messages are for: the ChannelFactory, its dict of item queues, and "
             "received(code, channelid, data) for what is done in Python.");

static PyObject *
connection_attach(ConnectionObject *connection, PyObject *args)
{
    PyObject *factory, *queues, *received;

    if (!PyArg_ParseTuple(args, "OO!O:attach", &factory, &PyDict_Type, &queues, &received)) {
        return NULL;
    }
    Py_XSETREF(connection->factory, Py_NewRef(factory));
    Py_XSETREF(connection->queues, Py_NewRef(queues));
    Py_XSETREF(connection->received, Py_NewRef(received));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(receive_doc,
             "receive($self, /)\n--\n\n"
             "Be the receiver: returns never, raises EOFError at the end of input, or what "
             "received() raised.");

static PyObject *
connection_receive(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    if (connection->queues == NULL) {
        PyErr_SetString(PyExc_ValueError, "the connection is not attached");
        return NULL;
    }
    return receive_run(connection);
}

PyDoc_STRVAR(stop_doc,
             "stop($self, /)\n--\n\n"
             "The receiver has ended and told all queues: whoever still waits stops waiting.");

static PyObject *
connection_stop(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    receive_stop(connection);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(answer_status_doc, "answer_status($self, execmodel, /)\n--\n\n"
                                "Answer STATUS here, naming the execution model.");

static PyObject *
connection_answer_status(ConnectionObject *connection, PyObject *name)
{
    const char *text = PyUnicode_AsUTF8(name);

    if (text == NULL) {
        return NULL;
    }
    if (strlen(text) < STATUS_NAME) {
        strcpy(connection->execmodel, text);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(count_task_doc, "count_task($self, change, /)\n--\n\n"
                             "One task more (1) or less (-1) is running.");

static PyObject *
connection_count_task(ConnectionObject *connection, PyObject *change)
{
    long value = PyLong_AsLong(change);

    if (value == -1 && PyErr_Occurred()) {
        return NULL;
    }
    (void)atomic_fetch_add(&connection->running_tasks, (int)value);
    Py_RETURN_NONE;
}

/* ---- ends ---- */

PyDoc_STRVAR(watch_doc,
             "watch($self, seconds, /)\n--\n\n"
             "From now on this process leaves, whatever it does, seconds after the other side is "
             "gone. Returns whether that can be had here.");

static PyObject *
connection_watch(ConnectionObject *connection, PyObject *args)
{
    double seconds;

    if (!PyArg_ParseTuple(args, "d:watch", &seconds)) {
        return NULL;
    }
    if (connection->sentinel == NULL) {
        connection->sentinel =
            sentinel_start(connection->read_fd, connection->outlet.fd, (int64_t)(seconds * 1000));
    }
    return PyBool_FromLong(connection->sentinel != NULL);
}

PyDoc_STRVAR(leave_in_doc, "leave_in($self, seconds, /)\n--\n\n"
                           "Let the process leave seconds from now, or with None not at all.");

static PyObject *
connection_leave_in(ConnectionObject *connection, PyObject *seconds)
{
    Sentinel *sentinel = connection->sentinel;

    if (seconds != Py_None) {
        double value = PyFloat_AsDouble(seconds);
        if (value == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
        if (sentinel != NULL) {
            sentinel_leave_in(sentinel, (int64_t)(value * 1000));
        }
    } else if (sentinel != NULL) {
        connection->sentinel = NULL;
        Py_BEGIN_ALLOW_THREADS
            sentinel_stop(sentinel);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(disown_doc, "disown($self, /)\n--\n\n"
                         "In a forked child: let go of the connection, which is the parent's.");

static PyObject *
connection_disown(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    connection->disowned = true;
    receive_disown(connection);
    if (connection->sentinel != NULL) {
        sentinel_forget(connection->sentinel);
        connection->sentinel = NULL;
    }
    Py_RETURN_NONE;
}

/* ---- the type ---- */

/* Connection(codec, read_fd, write_fd, lends=False) */
static int
connection_init(ConnectionObject *connection, PyObject *args, PyObject *kwargs)
{
    ModuleState *state = PyType_GetModuleState(Py_TYPE(connection));
    PyObject *codec;
    int write_fd, lends = false;

    if (kwargs != NULL || connection->codec != NULL ||
        !PyArg_ParseTuple(args, "O!ii|p", state->codec_type, &codec, &connection->read_fd,
                          &write_fd, &lends)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError,
                            "Connection(codec, read_fd, write_fd, lends=False), once");
        }
        return -1;
    }
    connection->codec = (CodecObject *)Py_NewRef(codec);
    connection->outlet = outlet_on(write_fd, lends);
    connection->write_lock = PyThread_allocate_lock();
    connection->receiver_lock = PyThread_allocate_lock();
    if (connection->write_lock == NULL || connection->receiver_lock == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    (void)PyThread_acquire_lock(connection->receiver_lock, NOWAIT_LOCK);
    return 0;
}

static int
connection_traverse(ConnectionObject *connection, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(connection));
    Py_VISIT(connection->codec);
    Py_VISIT(connection->factory);
    Py_VISIT(connection->queues);
    Py_VISIT(connection->received);
    Py_VISIT(connection->failure);
    return 0;
}

static int
connection_clear(ConnectionObject *connection)
{
    Py_CLEAR(connection->factory);
    Py_CLEAR(connection->queues);
    Py_CLEAR(connection->received);
    Py_CLEAR(connection->failure);
    return 0;
}

static void
connection_dealloc(ConnectionObject *connection)
{
    PyTypeObject *type = Py_TYPE(connection);

    PyObject_GC_UnTrack(connection);
    (void)connection_clear(connection);
    receive_close_kick(connection);
    if (connection->sentinel != NULL) {
        sentinel_stop(connection->sentinel);
    }
    Py_CLEAR(connection->large.bytes);
    Py_CLEAR(connection->codec);
    frame_release(&connection->buffer);
    PyMem_RawFree(connection->unsent);
    /* In a forked child, the locks may be held by threads that are not there: they are left. */
    if (connection->write_lock != NULL && !connection->disowned) {
        PyThread_free_lock(connection->write_lock);
    }
    if (connection->receiver_lock != NULL && !connection->disowned) {
        PyThread_free_lock(connection->receiver_lock);
    }
    type->tp_free((PyObject *)connection);
    Py_DECREF(type);
}

static PyMethodDef connection_methods[] = {
    {"send", (PyCFunction)connection_send, METH_VARARGS, send_doc},
    {"send_soon", (PyCFunction)connection_send_soon, METH_VARARGS, send_soon_doc},
    {"close_write", (PyCFunction)connection_close_write, METH_VARARGS, close_write_doc},
    {"attach", (PyCFunction)connection_attach, METH_VARARGS, attach_doc},
    {"receive", (PyCFunction)connection_receive, METH_NOARGS, receive_doc},
    {"stop", (PyCFunction)connection_stop, METH_NOARGS, stop_doc},
    {"answer_status", (PyCFunction)connection_answer_status, METH_O, answer_status_doc},
    {"count_task", (PyCFunction)connection_count_task, METH_O, count_task_doc},
    {"watch", (PyCFunction)connection_watch, METH_VARARGS, watch_doc},
    {"leave_in", (PyCFunction)connection_leave_in, METH_O, leave_in_doc},
    {"disown", (PyCFunction)connection_disown, METH_NOARGS, disown_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot connection_slots[] = {
    {Py_tp_doc, "A connection over a pair of descriptors, which stay the caller's to close."},
    {Py_tp_init, connection_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_traverse, connection_traverse},
    {Py_tp_clear, connection_clear},
    {Py_tp_dealloc, connection_dealloc},
    {Py_tp_methods, connection_methods},
    {0, NULL},
};

static PyType_Spec connection_spec = {
    .name = "execnet._core.Connection",
    .basicsize = sizeof(ConnectionObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = connection_slots,
};

int
connection_add_types(PyObject *module)
{
    ModuleState *state = module_state(module);

    state->connection_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &connection_spec, NULL);
    return state->connection_type == NULL ? -1 : PyModule_AddType(module, state->connection_type);
}
