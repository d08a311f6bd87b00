/* The part of a channel that runs per item. Python's Channel inherits it; what is rare is there.

   Where the connection is not one of the C core (green threads, foreign files, a gateway through
   another one), the methods of the portable twin take over, under the names _portable_send and
   _portable_receive. */
#include "connection/channel.h"

#include "connection/receiving.h"
#include "connection/sending.h"
#include "connection/timeline.h"
#include "types.h"

#include <structmember.h>

static int
channel_init(ChannelObject *channel, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"gateway", "id", NULL};
    PyObject *gateway;
    int id;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oi", names, &gateway, &id)) {
        return -1;
    }
    Py_INCREF(gateway);
    PyObject *before;
    Py_BEGIN_CRITICAL_SECTION(channel);
    before = channel->gateway;
    channel->gateway = gateway;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(before);
    channel->id = id;
    channel->closed = false;
    return 0;
}

WHILE_OTHERS_STAND static int
channel_traverse(ChannelObject *channel, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(channel));
    Py_VISIT(channel->gateway);
    Py_VISIT(channel->queue);
    return 0;
}

static int
channel_clear(ChannelObject *channel)
{
    Py_CLEAR(channel->gateway);
    Py_CLEAR(channel->queue);
    return 0;
}

static void
channel_dealloc(ChannelObject *channel)
{
    PyTypeObject *type = Py_TYPE(channel);

    PyObject_GC_UnTrack(channel);
    if (channel->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)channel);
    }
    (void)channel_clear(channel);
    type->tp_free((PyObject *)channel);
    Py_DECREF(type);
}

/* ---- sending ---- */

PyDoc_STRVAR(send_doc,
             "send($self, /, item)\n--\n\n"
             "Send item to the other side and return when the operating system has taken it.\n\n"
             "OSError if this channel or the connection is closed, DumpError if item can't be "
             "serialized (then nothing is sent).");

static PyObject *
send_item(ChannelObject *channel, PyObject *item)
{
    ItemQueueObject *queue = channel->queue;

    if (queue == NULL) {
        return PyObject_CallMethod((PyObject *)channel, "_portable_send", "(O)", item);
    }
    if (queue->closed || queue->write_closed) {
        PyErr_Format(PyExc_OSError, "cannot send to %R", channel);
        return NULL;
    }
    DumpBuffer dump;
    ConnectionObject *connection = (ConnectionObject *)Py_NewRef(queue->connection);
    PyObject *gateway;
    Py_BEGIN_CRITICAL_SECTION(channel);
    gateway = channel->gateway;
    Py_XINCREF(gateway);
    Py_END_CRITICAL_SECTION();
    PyObject *result = NULL;
    if (dump_message(connection->codec, item, gateway, FRAME_HEADER, &dump) < 0) {
        goto without_dump;
    }
    Py_ssize_t size = dump_size(&dump) - FRAME_HEADER;
    if (size > INT32_MAX) {
        PyErr_Format(connection->codec->dump_error,
                     "can't serialize: %zd bytes, a message takes %d", size, INT32_MAX);
        goto done;
    }
    frame_put_header(dump.start, MESSAGE_CHANNEL_DATA, channel->id, (int32_t)size);
    Piece pieces[WRITER_MOST_PIECES] = {
        {dump.start, (size_t)(dump.pos - dump.start), dump.owner},
        {dump.big_data, (size_t)dump.big_size, dump.big},
        {"Q", 1, NULL},
    };
    int64_t begun = timeline_begin(connection);
    if (send_message(connection, pieces, dump.big != NULL ? 3 : 1) == 0) {
        timeline_note(queue, TIMELINE_SENT, begun, size);
        result = Py_NewRef(Py_None);
    }
done:
    dump_release(&dump);
without_dump:
    Py_XDECREF(gateway);
    Py_DECREF(connection);
    return result;
}

static PyObject *
channel_send(ChannelObject *channel, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    if (count == 1 && keywords == NULL) {
        return send_item(channel, args[0]);
    }
    if (count == 0 && keywords != NULL && PyTuple_GET_SIZE(keywords) == 1 &&
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(keywords, 0), "item") == 0) {
        return send_item(channel, args[0]);
    }
    PyErr_SetString(PyExc_TypeError, "send() takes exactly one argument, item");
    return NULL;
}

/* ---- receiving ---- */

/* What the Python side makes of there being no item: a TimeoutError, or what ended the channel. */
static PyObject *
receive_other(ChannelObject *channel, ItemQueueObject *queue, Received outcome, PyObject *timeout)
{
    PyObject *item = outcome == RECEIVED_END
                         ? codec_name(queue->connection->codec->names, "ENDMARKER")
                         : Py_NewRef(Py_None);
    PyObject *value = NULL;

    if (item != NULL) {
        value = PyObject_CallMethod((PyObject *)channel, "_receive_other", "OO", item, timeout);
        Py_DECREF(item);
    }
    return value;
}

/* Of a value that was not read from a payload: of the large ones, all there is. */
static Py_ssize_t
size_of_built(PyObject *value)
{
    return PyBytes_Check(value) ? PyBytes_GET_SIZE(value) : 0;
}

static PyObject *
receive_within(ChannelObject *channel, PyObject *timeout)
{
    ItemQueueObject *queue = channel->queue;
    int64_t deadline;
    ReadingItem item;

    if (queue == NULL) {
        return PyObject_CallMethod((PyObject *)channel, "_portable_receive", "(O)", timeout);
    }
    if (itemqueue_has_callback(queue)) {
        PyErr_SetString(PyExc_OSError, "cannot receive(), channel has receiver callback");
        return NULL;
    }
    if (receive_deadline(timeout, &deadline) < 0) {
        return NULL;
    }
    Py_INCREF(queue);
    PyObject *value = NULL;
    int64_t begun = timeline_begin(queue->connection);
    Received outcome = receive_item(queue, deadline, &item);
    if (outcome == RECEIVED_ITEM && item.built) {
        value = item.object;
        timeline_note(queue, TIMELINE_RECEIVED, begun, size_of_built(value));
    } else if (outcome == RECEIVED_ITEM) {
        LoadOptions options = itemqueue_options(queue);
        value = load_value(queue->connection->codec, PyBytes_AS_STRING(item.object),
                           PyBytes_GET_SIZE(item.object), &options);
        if (value != NULL && PyErr_CheckSignals() < 0) {
            Py_CLEAR(value);
        }
        if (value != NULL || codec_finds_unreadable(queue->connection->codec)) {
            timeline_note(queue, TIMELINE_RECEIVED, begun, PyBytes_GET_SIZE(item.object));
            Py_DECREF((PyObject *)item.object);
        } else { /* a signal handler raised, or there is no memory: the item was not received */
            itemqueue_give_back(queue, item.object, false);
        }
    } else if (outcome != RECEIVED_ERROR) {
        timeline_note(queue, TIMELINE_WAITED, begun, 0);
        value = receive_other(channel, queue, outcome, timeout);
    }
    Py_DECREF(queue);
    return value;
}

PyDoc_STRVAR(
    receive_doc,
    "receive($self, /, timeout=None)\n--\n\n"
    "The next item the other side sent; waits for it, at most timeout seconds if given.\n\n"
    "TimeoutError if no item came in time. After the last item: RemoteError (once) if the "
    "remote code failed, else EOFError. OSError if a callback is set.");

static PyObject *
channel_receive(ChannelObject *channel, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    Py_ssize_t named = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);

    if (count + named > 1) {
        PyErr_Format(PyExc_TypeError, "receive() takes at most 1 argument (%zd given)",
                     count + named);
        return NULL;
    }
    if (named == 1 &&
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(keywords, 0), "timeout") != 0) {
        PyErr_Format(PyExc_TypeError, "receive() got an unexpected keyword argument '%U'",
                     PyTuple_GET_ITEM(keywords, 0));
        return NULL;
    }
    return receive_within(channel, count + named == 1 ? args[0] : Py_None);
}

static PyObject *
channel_next(ChannelObject *channel)
{
    PyObject *receive = PyObject_GetAttrString((PyObject *)channel, "receive");
    if (receive == NULL) {
        return NULL;
    }
    /* A subclass or a test may have replaced receive(). */
    PyObject *item =
        PyCFunction_Check(receive) && PyCFunction_GET_SELF(receive) == (PyObject *)channel
            ? receive_within(channel, Py_None)
            : PyObject_CallNoArgs(receive);
    Py_DECREF(receive);
    if (item == NULL && PyErr_ExceptionMatches(PyExc_EOFError)) {
        PyErr_Clear();
    }
    return item;
}

/* ---- the type ---- */

static PyMethodDef channel_methods[] = {
    {"send", (PyCFunction)(void (*)(void))channel_send, METH_FASTCALL | METH_KEYWORDS, send_doc},
    {"receive", (PyCFunction)(void (*)(void))channel_receive, METH_FASTCALL | METH_KEYWORDS,
     receive_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef channel_members[] = {
    {"gateway", T_OBJECT, offsetof(ChannelObject, gateway), 0,
     "the gateway that the channel belongs to"},
    {"id", T_INT, offsetof(ChannelObject, id), 0, "its number, the same on both sides"},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ChannelObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *
channel_get_closed(ChannelObject *channel, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(channel->queue != NULL ? channel->queue->closed : channel->closed);
}

static int
channel_set_closed(ChannelObject *channel, PyObject *value, void *Py_UNUSED(closure))
{
    int closed = value == NULL ? 0 : PyObject_IsTrue(value);

    if (closed < 0) {
        return -1;
    }
    if (channel->queue != NULL) {
        channel->queue->closed = closed;
    } else {
        channel->closed = closed;
    }
    return 0;
}

static PyGetSetDef channel_getset[] = {
    {"_closed", (getter)channel_get_closed, (setter)channel_set_closed, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_doc, "The part of a channel that runs per item."},
    {Py_tp_init, channel_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_traverse, channel_traverse},
    {Py_tp_clear, channel_clear},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_methods, channel_methods},
    {Py_tp_members, channel_members},
    {Py_tp_getset, channel_getset},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, channel_next},
    {0, NULL},
};

static PyType_Spec channel_spec = {
    .name = "execnet._core.Channel",
    .basicsize = sizeof(ChannelObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = channel_slots,
};

int
channel_add_types(PyObject *module)
{
    ModuleState *state = module_state(module);

    state->channel_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &channel_spec, NULL);
    return state->channel_type == NULL ? -1 : PyModule_AddType(module, state->channel_type);
}
