/* The type ItemQueue: what Python's cold half does with an item queue. */
#include "connection/channel.h"
#include "connection/dispatch.h"
#include "connection/receiving.h"
#include "connection/timeline.h"
#include "types.h"
#include "connection/waking.h"

#include <structmember.h>

/* ItemQueue(channel, connection): the queue is the channel's from then on. */
static PyObject *
queue_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    ModuleState *state = PyType_GetModuleState(type);
    PyObject *channel, *connection;

    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "ItemQueue() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!O!:ItemQueue", state->channel_type, &channel,
                          state->connection_type, &connection)) {
        return NULL;
    }
    ItemQueueObject *queue = (ItemQueueObject *)type->tp_alloc(type, 0);
    if (queue == NULL) {
        return NULL;
    }
    queue->connection = (ConnectionObject *)Py_NewRef(connection);
    queue->id = ((ChannelObject *)channel)->id;
    queue->errors = PyList_New(0);
    queue->strconfig = Py_BuildValue("(OO)", Py_True, Py_False);
    queue->channel_ref = PyWeakref_NewRef(channel, NULL);
    if (queue->errors == NULL || queue->strconfig == NULL || queue->channel_ref == NULL) {
        Py_DECREF(queue);
        return NULL;
    }
    queue->options.py2str_as_py3str = true;
    queue->is_open = true;
    (void)atomic_fetch_add(&queue->connection->open_channels, 1);
    Py_XSETREF(((ChannelObject *)channel)->queue, (ItemQueueObject *)Py_NewRef(queue));
    return (PyObject *)queue;
}

WHILE_OTHERS_STAND static int
queue_traverse(ItemQueueObject *queue, visitproc visit, void *arg)
{
    const ReadingQueue *arrived = &queue->arrived;

    Py_VISIT(Py_TYPE(queue));
    Py_VISIT(queue->connection);
    Py_VISIT((PyObject *)arrived->function);
    Py_VISIT((PyObject *)arrived->marker);
    Py_VISIT(queue->errors);
    Py_VISIT(queue->strconfig);
    for (size_t i = 0; i < arrived->count; i++) {
        Py_VISIT((PyObject *)arrived->items[(arrived->first + i) & (arrived->capacity - 1)].object);
    }
    return 0;
}

/* The connection stays: methods may still run, and it is no way back to here. */
static int
queue_clear(ItemQueueObject *queue)
{
    ReadingItem item;

    queue->closed = true;
    itemqueue_end(queue);
    itemqueue_abandon_callback(queue);
    while (reading_take(itemqueue_reading(queue), &queue->arrived, &item) == TAKE_ITEM) {
        Py_DECREF((PyObject *)item.object);
    }
    return 0;
}

static void
queue_dealloc(ItemQueueObject *queue)
{
    PyTypeObject *type = Py_TYPE(queue);

    PyObject_GC_UnTrack(queue);
    if (dispatch_keeps(queue)) {
        return;
    }
    (void)queue_clear(queue);
    PyMem_Free(queue->arrived.items);
    Py_CLEAR(queue->errors);
    Py_CLEAR(queue->strconfig);
    Py_CLEAR(queue->channel_ref);
    Py_CLEAR(queue->connection);
    type->tp_free((PyObject *)queue);
    Py_DECREF(type);
}

static PyObject *
queue_channel(ItemQueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    PyObject *channel;

    if (queue->dropped) { /* its finalizer may still run */
        Py_RETURN_NONE;
    }
    if (PyWeakref_GetRef(queue->channel_ref, &channel) < 0) {
        return NULL;
    }
    return channel != NULL ? channel : Py_NewRef(Py_None);
}

static PyObject *
queue_drop(ItemQueueObject *queue, PyObject *id)
{
    int number = PyLong_AsLong(id);

    if ((number == -1 && PyErr_Occurred()) || itemqueue_drop(queue, number) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Whether Python's form of an item holds a value, -1 if it is none. */
static int
is_built(PyObject *item)
{
    if (PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) == 1) {
        return 1;
    }
    if (PyBytes_CheckExact(item)) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "an item must be bytes or a tuple of 1, not %.200s",
                 Py_TYPE(item)->tp_name);
    return -1;
}

static PyObject *
queue_put(ItemQueueObject *queue, PyObject *item)
{
    int built = is_built(item);

    if (built < 0) {
        return NULL;
    }
    if (itemqueue_put(queue, built ? PyTuple_GET_ITEM(item, 0) : item, built) == PUT_ERROR) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* A taken item as Python has it: bytes, or a value in a 1-tuple, ENDMARKER after the end, None if
   there is none. */
static PyObject *
taken(ItemQueueObject *queue, Take take, const ReadingItem *item)
{
    if (take == TAKE_ITEM) {
        return item->built ? Py_BuildValue("(N)", item->object) : item->object;
    }
    if (take == TAKE_NONE) {
        Py_RETURN_NONE;
    }
    return codec_name(queue->connection->codec->names, "ENDMARKER");
}

static PyObject *
queue_get_nowait(ItemQueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    ReadingItem item;
    Take take = reading_take(itemqueue_reading(queue), &queue->arrived, &item);

    return taken(queue, take, &item);
}

static PyObject *
queue_is_set(ItemQueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(itemqueue_look(queue).ended);
}

static PyObject *
queue_set(ItemQueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    itemqueue_end(queue);
    Py_RETURN_NONE;
}

static PyObject *
queue_wait(ItemQueueObject *queue, PyObject *const *args, Py_ssize_t count)
{
    int64_t deadline;

    if (count > 1) {
        PyErr_Format(PyExc_TypeError, "wait() takes at most 1 argument, got %zd", count);
        return NULL;
    }
    if (receive_deadline(count == 1 ? args[0] : Py_None, &deadline) < 0) {
        return NULL;
    }
    if (itemqueue_look(queue).ended) {
        Py_RETURN_TRUE;
    }
    int64_t begun = timeline_begin(queue->connection);
    Received received = receive_end(queue, deadline);
    timeline_note(queue, TIMELINE_WAITED, begun, 0);
    return received == RECEIVED_ERROR ? NULL : PyBool_FromLong(received == RECEIVED_END);
}

/* ---- callbacks ---- */

static PyObject *
queue_begin_callback(ItemQueueObject *queue, PyObject *args)
{
    PyObject *callback, *endmarker;

    if (!PyArg_ParseTuple(args, "OO:begin_callback", &callback, &endmarker)) {
        return NULL;
    }
    Py_INCREF(callback);
    Py_INCREF(endmarker);
    if (reading_begin_callback(itemqueue_reading(queue), &queue->arrived, callback, endmarker)) {
        Py_RETURN_TRUE;
    }
    Py_DECREF(callback);
    Py_DECREF(endmarker);
    Py_RETURN_FALSE;
}

/* What a signal handler raises after the call, too, finds the item in the list. */
static PyObject *
queue_next_for_callback(ItemQueueObject *queue, PyObject *list)
{
    ReadingItem item;

    if (!PyList_Check(list)) {
        PyErr_Format(PyExc_TypeError, "next_for_callback() argument must be list, not %.200s",
                     Py_TYPE(list)->tp_name);
        return NULL;
    }
    Take take = reading_next_for_callback(itemqueue_reading(queue), &queue->arrived, &item);
    if (take == TAKE_ITEM) { /* the call follows at once */
        timeline_note(queue, TIMELINE_CALLED, timeline_begin(queue->connection),
                      item.built ? 0 : PyBytes_GET_SIZE((PyObject *)item.object));
    }
    PyObject *object = taken(queue, take, &item);
    if (take == TAKE_ITEM && object != NULL && PyList_Append(list, object) < 0) {
        itemqueue_give_back(queue, Py_NewRef(item.object), item.built);
        Py_CLEAR(object);
    }
    return object;
}

/* What next_for_callback() put into the list, if it is still there. */
static PyObject *
queue_put_back(ItemQueueObject *queue, PyObject *list)
{
    if (!PyList_Check(list)) {
        PyErr_Format(PyExc_TypeError, "put_back() argument must be list, not %.200s",
                     Py_TYPE(list)->tp_name);
        return NULL;
    }
    for (Py_ssize_t i = PyList_GET_SIZE(list) - 1; i >= 0; i--) {
        PyObject *item = PyList_GetItemRef(list, i);
        int built = item == NULL ? -1 : is_built(item);
        if (built >= 0) {
            itemqueue_give_back(queue, Py_NewRef(built ? PyTuple_GET_ITEM(item, 0) : item), built);
        }
        Py_XDECREF(item);
        if (built < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
no_endmarker(const ItemQueueObject *queue)
{
    return codec_name(queue->connection->codec->names, "NO_ENDMARKER_WANTED");
}

static PyObject *
queue_abandon_callback(ItemQueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    itemqueue_abandon_callback(queue);
    Py_RETURN_NONE;
}

/* While a thread still delivers what was queued, the end is its to tell, after that. */
static PyObject *
queue_take_endmarker(ItemQueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    PyObject *none = no_endmarker(queue);
    PyObject *marker =
        none == NULL ? NULL : reading_take_marker(itemqueue_reading(queue), &queue->arrived);

    if (marker == NULL) {
        return none;
    }
    Py_DECREF(none);
    return marker;
}

static PyObject *
queue_count(ItemQueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(itemqueue_look(queue).count);
}

static PyObject *
queue_get_callback(ItemQueueObject *queue, void *Py_UNUSED(closure))
{
    PyObject *function = reading_function(itemqueue_reading(queue), &queue->arrived);

    return function != NULL ? function : Py_NewRef(Py_None);
}

static int
queue_set_strconfig(ItemQueueObject *queue, PyObject *strconfig, void *Py_UNUSED(closure))
{
    int py2str, py3str;

    if (strconfig == NULL || !PyTuple_Check(strconfig) ||
        !PyArg_ParseTuple(strconfig, "pp", &py2str, &py3str)) {
        PyErr_SetString(PyExc_TypeError, "strconfig is (py2str_as_py3str, py3str_as_py2str)");
        return -1;
    }
    Reading *reading = itemqueue_reading(queue);
    Py_INCREF(strconfig);
    LOCK_WITHOUT_GIL(reading);
    PyObject *before = queue->strconfig;
    queue->strconfig = strconfig;
    queue->options.py2str_as_py3str = py2str;
    queue->options.py3str_as_py2str = py3str;
    UNLOCK_WITHOUT_GIL(reading);
    Py_XDECREF(before);
    return 0;
}

static PyObject *
queue_get_strconfig(ItemQueueObject *queue, void *Py_UNUSED(closure))
{
    Reading *reading = itemqueue_reading(queue);

    LOCK_WITHOUT_GIL(reading);
    PyObject *strconfig = Py_NewRef(queue->strconfig);
    UNLOCK_WITHOUT_GIL(reading);
    return strconfig;
}

/* ---- the type ---- */

static PyMethodDef queue_methods[] = {
    {"channel", (PyCFunction)queue_channel, METH_NOARGS,
     "The Channel that still uses the queue, or None."},
    {"drop", (PyCFunction)queue_drop, METH_O,
     "The Channel is going: unless its callback waits for more, the queue of that id is found no "
     "more."},
    {"put", (PyCFunction)queue_put, METH_O, "Append bytes, or a value in a 1-tuple."},
    {"get_nowait", (PyCFunction)queue_get_nowait, METH_NOARGS,
     "The next item, ENDMARKER after the end, None if there is none."},
    {"is_set", (PyCFunction)queue_is_set, METH_NOARGS, "Whether nothing more can arrive."},
    {"isSet", (PyCFunction)queue_is_set, METH_NOARGS, "Whether nothing more can arrive."},
    {"set", (PyCFunction)queue_set, METH_NOARGS,
     "Let nothing more arrive, and wake all that wait."},
    {"wait", (PyCFunction)(void (*)(void))queue_wait, METH_FASTCALL,
     "Wait until nothing more can arrive; returns whether that is so after timeout seconds."},
    {"begin_callback", (PyCFunction)queue_begin_callback, METH_VARARGS,
     "Set callback and end marker, False if there is a callback; what arrives is still queued."},
    {"next_for_callback", (PyCFunction)queue_next_for_callback, METH_O,
     "As get_nowait, and puts the item into a list as well; where there is none, what arrives goes "
     "to "
     "the callback from here on."},
    {"count", (PyCFunction)queue_count, METH_NOARGS, "How many items wait."},
    {"put_back", (PyCFunction)queue_put_back, METH_O,
     "What next_for_callback put into the list is the next item again."},
    {"abandon_callback", (PyCFunction)queue_abandon_callback, METH_NOARGS,
     "As if begin_callback had not been called."},
    {"take_endmarker", (PyCFunction)queue_take_endmarker, METH_NOARGS,
     "What the callback is to be called with last, once; then NO_ENDMARKER_WANTED."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef queue_members[] = {
    {"closed", T_BOOL, offsetof(ItemQueueObject, closed), 0, "whether the channel is closed"},
    {"write_closed", T_BOOL, offsetof(ItemQueueObject, write_closed), 0,
     "whether this side sends nothing more"},
    {"errors", T_OBJECT_EX, offsetof(ItemQueueObject, errors), READONLY,
     "errors of the other side that were not told yet"},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef queue_getset[] = {
    {"callback", (getter)queue_get_callback, NULL, "called with each item, or None", NULL},
    {"strconfig", (getter)queue_get_strconfig, (setter)queue_set_strconfig,
     "(py2str_as_py3str, py3str_as_py2str)", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, "What waits to be received on one channel."},
    {Py_tp_new, queue_new},
    {Py_tp_traverse, queue_traverse},
    {Py_tp_clear, queue_clear},
    {Py_tp_dealloc, queue_dealloc},
    {Py_tp_methods, queue_methods},
    {Py_tp_members, queue_members},
    {Py_tp_getset, queue_getset},
    {0, NULL},
};

static PyType_Spec queue_spec = {
    .name = "execnet._core.ItemQueue",
    .basicsize = sizeof(ItemQueueObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = queue_slots,
};

int
itemqueue_add_types(PyObject *module)
{
    ModuleState *state = module_state(module);

    state->itemqueue_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &queue_spec, NULL);
    return state->itemqueue_type == NULL ? -1 : PyModule_AddType(module, state->itemqueue_type);
}
