/* The type Connection: what Python's cold half does with a connection. */
#include "connection/disown.h"
#include "connection/itemqueue.h"
#include "connection/receiving.h"
#include "connection/sending.h"
#include "connection/stacks.h"
#include "connection/tasks.h"
#include "connection/timeline.h"
#include "types.h"
#include "connection/waking.h"

#include <structmember.h>

/* ---- what Python's cold half calls ---- */

enum { MOST_WAITERS = 100 };

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
    if (send_message(connection, pieces, pieces[1].size > 0 ? 2 : 1) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(send_soon_doc,
             "send_soon($self, msgcode, channelid, /)\n--\n\n"
             "Send a message without payload, without ever waiting: where the other side "
             "does not read, it goes out when there is room.");

static PyObject *
connection_send_soon(ConnectionObject *connection, PyObject *args)
{
    int code, channel;

    if (!PyArg_ParseTuple(args, "ii:send_soon", &code, &channel)) {
        return NULL;
    }
    if (send_soon(connection, code, channel) < 0) {
        return NULL;
    }
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

    if (!PyArg_ParseTuple(args, "|d:close_write", &seconds)) {
        return NULL;
    }
    return PyBool_FromLong(disown_if_forked(connection) ||
                           send_end(connection, (int64_t)(seconds * 1000)));
}

PyDoc_STRVAR(attach_doc,
             "attach($self, factory, queues, received, /)\n--\n\n"
             "Name, once, what messages are for: the ChannelFactory, its dict of item queues, and "
             "received(code, channelid, data) for what is done in Python.");

static PyObject *
connection_attach(ConnectionObject *connection, PyObject *args)
{
    PyObject *factory, *queues, *received;

    if (!PyArg_ParseTuple(args, "OO!O:attach", &factory, &PyDict_Type, &queues, &received)) {
        return NULL;
    }
    if (connection->queues != NULL) {
        PyErr_SetString(PyExc_ValueError, "the connection is attached already");
        return NULL;
    }
    connection->factory = Py_NewRef(factory);
    connection->received = Py_NewRef(received);
    connection->queues = Py_NewRef(queues);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(receive_doc,
             "receive($self, /)\n--\n\n"
             "Be the receiver: returns never, raises EOFError at the end of input, or what "
             "received() raised. From then on nobody reads the descriptor.");

static PyObject *
connection_receive(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    if (connection->queues == NULL) {
        PyErr_SetString(PyExc_ValueError, "the connection is not attached");
        return NULL;
    }
    receive_run(connection);
    return NULL;
}

PyDoc_STRVAR(stop_doc,
             "stop($self, /)\n--\n\n"
             "The receiver has ended and told all queues: whoever still waits stops waiting.");

static PyObject *
connection_stop(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    receive_stopped(connection);
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

PyDoc_STRVAR(add_task_doc, "add_task($self, /)\n--\n\n"
                           "One task more counts as running.");

static PyObject *
connection_add_task(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    (void)atomic_fetch_add(&connection->running_tasks, 1);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(run_task_doc, "run_task($self, channelid, filename, function, /)\n--\n\n"
                           "This thread runs one of them, for those who ask.");

static PyObject *
connection_run_task(ConnectionObject *connection, PyObject *args)
{
    int channel;
    const char *file, *function;

    (void)disown_if_forked(connection);
    if (!PyArg_ParseTuple(args, "isz:run_task", &channel, &file, &function) ||
        tasks_begin(connection, channel, file, function) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(end_task_doc, "end_task($self, channelid, /)\n--\n\nA task has ended.");

static PyObject *
connection_end_task(ConnectionObject *connection, PyObject *args)
{
    int channel;

    if (!PyArg_ParseTuple(args, "i:end_task", &channel)) {
        return NULL;
    }
    (void)disown_if_forked(connection);
    tasks_end(connection, channel);
    (void)atomic_fetch_sub(&connection->running_tasks, 1);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(prepare_stacks_doc,
             "prepare_stacks($self, /)\n--\n\n"
             "Have what it takes to tell the stacks of all threads when Python code can't.");

static PyObject *
connection_prepare_stacks(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    if (stacks_prepare(connection) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(start_timeline_doc, "start_timeline($self, /)\n--\n\n"
                                 "From here on, note which items are sent and received.");

static PyObject *
connection_start_timeline(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    if (timeline_start(connection) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    take_timeline_doc,
    "take_timeline($self, /)\n--\n\n"
    "How many notes were lost since the last call, and a list of the others: (kind, channel "
    "id, number of the first item, count, bytes, begun, ended, spent, thread).");

static PyObject *
connection_take_timeline(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    return timeline_take(connection);
}

PyDoc_STRVAR(read_at_doc, "read_at($self, /)\n--\n\n"
                          "When something was last read, in milliseconds of a clock that only goes "
                          "forward; 0: nothing was.");

static PyObject *
connection_read_at(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLongLong(atomic_load(&connection->read_at));
}

PyDoc_STRVAR(handling_doc, "handling($self, /)\n--\n\n"
                           "A number for the message that the receiver runs Python code for, such "
                           "as a callback, which keeps it from reading; 0: it runs none.");

static PyObject *
connection_handling(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    unsigned steps = atomic_load(&connection->steps);

    return PyLong_FromUnsignedLong(steps % 2 ? steps : 0);
}

/* The id of the channel that has this queue, -1 where none has it any more. */
static long
channel_of(const ConnectionObject *connection, const ReadingQueue *queue)
{
    PyObject *queues = connection->queues, *id, *found;
    Py_ssize_t at = 0;
    long channel = -1;

    if (queues == NULL) {
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(queues);
    while (channel < 0 && PyDict_Next(queues, &at, &id, &found)) {
        if (&((ItemQueueObject *)found)->arrived == queue) {
            channel = PyLong_AsLong(id);
        }
    }
    Py_END_CRITICAL_SECTION();
    return channel;
}

PyDoc_STRVAR(waits_doc, "waits($self, /)\n--\n\n"
                        "Who waits for items: a list of (thread, channel id, whether it waits for "
                        "the end).");

static PyObject *
connection_waits(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    ReadingWaiter waiters[MOST_WAITERS];
    size_t count = reading_list(&connection->reading, waiters, MOST_WAITERS);
    PyObject *list = PyList_New(0);

    for (size_t i = 0; i < count && list != NULL; i++) {
        PyObject *one =
            Py_BuildValue("klO", waiters[i].ident, channel_of(connection, waiters[i].queue),
                          waiters[i].for_end ? Py_True : Py_False);
        if (one == NULL || PyList_Append(list, one) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
    }
    return list;
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
    PyObject *itself = PyWeakref_NewRef((PyObject *)connection, NULL);
    if (itself == NULL) {
        return NULL;
    }
    bool is_watched;
    Py_BEGIN_CRITICAL_SECTION(connection);
    if (connection->itself == NULL) {
        connection->itself = Py_NewRef(itself);
    }
    if (connection->sentinel == NULL) {
        connection->sentinel =
            sentinel_start(connection->read_fd, connection->writer.fd, (int64_t)(seconds * 1000),
                           connection->writer.is_socket ? send_probe : NULL, stacks_answer,
                           stacks_search, connection);
    }
    is_watched = connection->sentinel != NULL;
    Py_END_CRITICAL_SECTION();
    Py_DECREF(itself);
    return PyBool_FromLong(is_watched);
}

PyDoc_STRVAR(leave_in_doc, "leave_in($self, seconds, /)\n--\n\n"
                           "Let the process leave seconds from now, or with None not at all.");

static PyObject *
leave_not(ConnectionObject *connection)
{
    Sentinel *sentinel;

    Py_BEGIN_CRITICAL_SECTION(connection);
    sentinel = connection->sentinel; /* which threads that answer for it may still call */
    Py_END_CRITICAL_SECTION();
    if (sentinel != NULL) {
        Py_BEGIN_ALLOW_THREADS
            sentinel_stop(sentinel);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

static PyObject *
connection_leave_in(ConnectionObject *connection, PyObject *seconds)
{
    if (seconds == Py_None) {
        return leave_not(connection);
    }
    double value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(connection);
    if (connection->sentinel != NULL) {
        sentinel_leave_in(connection->sentinel, (int64_t)(value * 1000));
    }
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(disown_doc, "disown($self, /)\n--\n\n"
                         "In a forked child: let go of the connection, which is the parent's, and "
                         "let its queues end.");

static PyObject *
connection_disown(ConnectionObject *connection, PyObject *Py_UNUSED(ignored))
{
    PyObject *queues = connection->queues, *queue;
    Py_ssize_t at = 0;

    disown(connection);
    connection->queues = NULL;
    /* Without a critical section: a thread that is not in this process may have taken it along. */
    while (queues != NULL && PyDict_Next(queues, &at, NULL, &queue)) {
        itemqueue_end((ItemQueueObject *)queue);
    }
    Py_XDECREF(queues);
    Py_RETURN_NONE;
}

/* ---- the type ---- */

/* What was to be held while the machine's lock is. */
static void
hold(void *object)
{
    Py_INCREF((PyObject *)object);
}

/* Connection(codec, read_fd, write_fd, zero_copy=False) */
static PyObject *
connection_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    ModuleState *state = PyType_GetModuleState(type);
    PyObject *codec;
    int read_fd, write_fd, zero_copy = false;

    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "Connection() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!ii|p:Connection", state->codec_type, &codec, &read_fd, &write_fd,
                          &zero_copy)) {
        return NULL;
    }
    ConnectionObject *connection = (ConnectionObject *)type->tp_alloc(type, 0);
    if (connection == NULL) {
        return NULL;
    }
    connection->codec = (CodecObject *)Py_NewRef(codec);
    connection->read_fd = read_fd;
    connection->module = Py_NewRef(PyType_GetModule(type));
    connection->interpreter = PyInterpreterState_Get();
    connection->fork_mark = &state->fork_mark;
    connection->spin = fdio_spin_new();
    connection->writer = writer_on(write_fd, zero_copy);
    reading_init(&connection->reading, hold);
    writing_init(&connection->writing);
    mutex_init(&connection->tasks_lock);
    connection->receiver_wakeup = waking_new();
    connection->reading.receiver.sleeper.wakeup = connection->receiver_wakeup;
    if (connection->receiver_wakeup == NULL) {
        Py_CLEAR(connection);
    }
    return (PyObject *)connection;
}

WHILE_OTHERS_STAND static int
connection_traverse(ConnectionObject *connection, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(connection));
    Py_VISIT(connection->module);
    Py_VISIT(connection->codec);
    Py_VISIT(connection->factory);
    Py_VISIT(connection->queues);
    Py_VISIT(connection->received);
    return 0;
}

static int
connection_clear(ConnectionObject *connection)
{
    Py_CLEAR(connection->factory);
    Py_CLEAR(connection->queues);
    Py_CLEAR(connection->received);
    return 0;
}

static void
connection_dealloc(ConnectionObject *connection)
{
    PyTypeObject *type = Py_TYPE(connection);

    PyObject_GC_UnTrack(connection);
    stacks_release(connection); /* before others get the GIL */
    (void)disown_if_forked(connection);
    if (connection->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)connection);
    }
    (void)connection_clear(connection);
    waking_close_waker(connection);
    if (connection->sentinel != NULL) {
        Py_BEGIN_ALLOW_THREADS
            sentinel_stop(connection->sentinel);
        Py_END_ALLOW_THREADS
        sentinel_forget(connection->sentinel);
    }
    Py_CLEAR(connection->large.bytes);
    Py_CLEAR(connection->codec);
    frame_release(&connection->buffer);
    send_release(connection);
    receive_release(connection);
    tasks_release(connection);
    timeline_release(connection);
    Py_CLEAR(connection->itself);
    /* In a forked child, it may be held by a thread that is not there: it is left. */
    if (connection->receiver_wakeup != NULL && !connection->disowned) {
        PyThread_free_lock(connection->receiver_wakeup);
    }
    Py_CLEAR(connection->module);
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
    {"add_task", (PyCFunction)connection_add_task, METH_NOARGS, add_task_doc},
    {"run_task", (PyCFunction)connection_run_task, METH_VARARGS, run_task_doc},
    {"end_task", (PyCFunction)connection_end_task, METH_VARARGS, end_task_doc},
    {"prepare_stacks", (PyCFunction)connection_prepare_stacks, METH_NOARGS, prepare_stacks_doc},
    {"start_timeline", (PyCFunction)connection_start_timeline, METH_NOARGS, start_timeline_doc},
    {"take_timeline", (PyCFunction)connection_take_timeline, METH_NOARGS, take_timeline_doc},
    {"read_at", (PyCFunction)connection_read_at, METH_NOARGS, read_at_doc},
    {"handling", (PyCFunction)connection_handling, METH_NOARGS, handling_doc},
    {"waits", (PyCFunction)connection_waits, METH_NOARGS, waits_doc},
    {"watch", (PyCFunction)connection_watch, METH_VARARGS, watch_doc},
    {"leave_in", (PyCFunction)connection_leave_in, METH_O, leave_in_doc},
    {"disown", (PyCFunction)connection_disown, METH_NOARGS, disown_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef connection_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ConnectionObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot connection_slots[] = {
    {Py_tp_doc, "A connection over a pair of descriptors, which stay the caller's to close."},
    {Py_tp_new, connection_new},
    {Py_tp_traverse, connection_traverse},
    {Py_tp_clear, connection_clear},
    {Py_tp_dealloc, connection_dealloc},
    {Py_tp_methods, connection_methods},
    {Py_tp_members, connection_members},
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
