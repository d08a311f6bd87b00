/* The item queue: what waits to be received on one channel, in the order of arrival. It outlives
   the Channel object while a callback is set. Waiting itself is receive.c's: who waits may have to
   read. */
#include "connection.h"

#include <math.h>
#include <structmember.h>

/* ---- the ring ---- */

static int
ring_grow(ItemQueueObject *queue)
{
    Py_ssize_t capacity = queue->capacity == 0 ? 8 : queue->capacity * 2;

    if (queue->capacity > PY_SSIZE_T_MAX / 2 / (Py_ssize_t)sizeof(Item)) {
        PyErr_NoMemory();
        return -1;
    }
    Item *items = PyMem_New(Item, capacity);
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < queue->count; i++) {
        items[i] = queue->items[(queue->first + i) & (queue->capacity - 1)];
    }
    PyMem_Free(queue->items);
    queue->items = items;
    queue->capacity = capacity;
    queue->first = 0;
    return 0;
}

static Item
ring_pop(ItemQueueObject *queue)
{
    Item item = queue->items[queue->first];

    queue->first = (queue->first + 1) & (queue->capacity - 1);
    queue->count--;
    return item;
}

int
itemqueue_put(ItemQueueObject *queue, PyObject *object, bool built)
{
    if (queue->count == queue->capacity && ring_grow(queue) < 0) {
        return -1;
    }
    Item *item = &queue->items[(queue->first + queue->count) & (queue->capacity - 1)];
    item->object = Py_NewRef(object);
    item->built = built;
    queue->count++;
    receive_wake(queue->connection, queue, false);
    return 0;
}

static void
count_no_longer(ItemQueueObject *queue)
{
    if (queue->is_open) {
        queue->is_open = false;
        (void)atomic_fetch_sub(&queue->connection->open_channels, 1);
    }
}

void
itemqueue_end(ItemQueueObject *queue)
{
    if (!queue->ended) {
        queue->ended = true;
        count_no_longer(queue);
        receive_wake(queue->connection, queue, true);
    }
}

TakeOutcome
itemqueue_take(ItemQueueObject *queue, int64_t deadline, Item *item)
{
    if (queue->count == 0 && !queue->ended &&
        receive_wait(queue->connection, queue, false, deadline) < 0) {
        return TAKE_ERROR;
    }
    if (queue->count > 0) {
        *item = ring_pop(queue);
        return TAKE_ITEM;
    }
    return queue->ended || queue->connection->stopped ? TAKE_END : TAKE_TIMEOUT;
}

int
itemqueue_deadline(PyObject *timeout, int64_t *deadline)
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
    /* Longer than a century is for ever. */
    *deadline = seconds > 3e9 ? FDIO_FOREVER : fdio_now() + (int64_t)ceil(fmax(seconds, 0) * 1000);
    return 0;
}

/* ---- what Python's cold half calls ---- */

/* ItemQueue(channel, connection) */
static int
queue_init(ItemQueueObject *queue, PyObject *args, PyObject *kwargs)
{
    ModuleState *state = PyType_GetModuleState(Py_TYPE(queue));
    PyObject *channel, *connection;

    if (kwargs != NULL || queue->connection != NULL ||
        !PyArg_ParseTuple(args, "O!O!", state->channel_type, &channel, state->connection_type,
                          &connection)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "ItemQueue(channel, connection), once");
        }
        return -1;
    }
    queue->channel = (ChannelObject *)channel;
    queue->connection = (ConnectionObject *)Py_NewRef(connection);
    queue->callback = Py_NewRef(Py_None);
    queue->endmarker = PyDict_GetItemString(queue->connection->codec->names, "NO_ENDMARKER_WANTED");
    Py_XINCREF(queue->endmarker);
    queue->strconfig = Py_BuildValue("(OO)", Py_True, Py_False);
    queue->options.py2str_as_py3str = true;
    queue->is_open = true;
    (void)atomic_fetch_add(&queue->connection->open_channels, 1);
    Py_XSETREF(queue->channel->queue, (ItemQueueObject *)Py_NewRef(queue));
    return queue->strconfig == NULL ? -1 : 0;
}

static int
queue_traverse(ItemQueueObject *queue, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(queue));
    Py_VISIT(queue->connection);
    Py_VISIT(queue->callback);
    Py_VISIT(queue->endmarker);
    Py_VISIT(queue->strconfig);
    for (Py_ssize_t i = 0; i < queue->count; i++) {
        Py_VISIT(queue->items[(queue->first + i) & (queue->capacity - 1)].object);
    }
    return 0;
}

/* The connection stays: methods may still run, and it is no way back to here. */
static int
queue_clear(ItemQueueObject *queue)
{
    if (queue->callback != NULL && queue->callback != Py_None) {
        receive_count_callback(queue->connection, -1);
        Py_SETREF(queue->callback, Py_NewRef(Py_None));
    }
    Py_CLEAR(queue->endmarker);
    Py_CLEAR(queue->strconfig);
    while (queue->count > 0) {
        Item item = ring_pop(queue);
        Py_DECREF(item.object);
    }
    return 0;
}

static void
queue_dealloc(ItemQueueObject *queue)
{
    PyTypeObject *type = Py_TYPE(queue);

    PyObject_GC_UnTrack(queue);
    (void)queue_clear(queue);
    count_no_longer(queue);
    PyMem_Free(queue->items);
    Py_CLEAR(queue->callback);
    Py_CLEAR(queue->connection);
    type->tp_free((PyObject *)queue);
    Py_DECREF(type);
}

static PyObject *
queue_channel(ItemQueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(queue->channel == NULL ? Py_None : (PyObject *)queue->channel);
}

static PyObject *
queue_drop(ItemQueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    queue->channel = NULL;
    count_no_longer(queue);
    Py_RETURN_NONE;
}

/* In a forked child, whose connection has been disowned. */
static PyObject *
queue_disown(ItemQueueObject *queue, PyObject *Py_UNUSED(execmodel))
{
    itemqueue_end(queue);
    Py_RETURN_NONE;
}

static PyObject *
queue_put(ItemQueueObject *queue, PyObject *item)
{
    bool built = PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) == 1;

    if (!built && !PyBytes_CheckExact(item)) {
        PyErr_Format(PyExc_TypeError, "an item is bytes, or a value in a 1-tuple, not %R", item);
        return NULL;
    }
    if (itemqueue_put(queue, built ? PyTuple_GET_ITEM(item, 0) : item, built) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* The next item as Python has it (bytes, or a value in a 1-tuple), ENDMARKER after the end, None if
 * there is none. */
static PyObject *
queue_get_nowait(ItemQueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    if (queue->count > 0) {
        Item item = ring_pop(queue);
        return item.built ? Py_BuildValue("(N)", item.object) : item.object;
    }
    if (!queue->ended) {
        Py_RETURN_NONE;
    }
    PyObject *endmarker = PyDict_GetItemString(queue->connection->codec->names, "ENDMARKER");
    return Py_NewRef(endmarker != NULL ? endmarker : Py_None);
}

static PyObject *
queue_is_set(ItemQueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(queue->ended);
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
    if (itemqueue_deadline(count == 1 ? args[0] : Py_None, &deadline) < 0) {
        return NULL;
    }
    if (!queue->ended && receive_wait(queue->connection, queue, true, deadline) < 0) {
        return NULL;
    }
    return PyBool_FromLong(queue->ended || queue->connection->stopped);
}

static int
queue_set_callback(ItemQueueObject *queue, PyObject *callback, void *Py_UNUSED(closure))
{
    if (callback == NULL) {
        callback = Py_None;
    }
    receive_count_callback(queue->connection, (callback != Py_None) - (queue->callback != Py_None));
    Py_XSETREF(queue->callback, Py_NewRef(callback));
    return 0;
}

static PyObject *
queue_get_callback(ItemQueueObject *queue, void *Py_UNUSED(closure))
{
    return Py_NewRef(queue->callback);
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
    Py_XSETREF(queue->strconfig, Py_NewRef(strconfig));
    queue->options.py2str_as_py3str = py2str;
    queue->options.py3str_as_py2str = py3str;
    return 0;
}

static PyObject *
queue_get_strconfig(ItemQueueObject *queue, void *Py_UNUSED(closure))
{
    return Py_NewRef(queue->strconfig);
}

/* ---- the type ---- */

static PyMethodDef queue_methods[] = {
    {"channel", (PyCFunction)queue_channel, METH_NOARGS,
     "The Channel that still uses the queue, or None."},
    {"drop", (PyCFunction)queue_drop, METH_NOARGS, "The Channel is going."},
    {"disown", (PyCFunction)queue_disown, METH_O, "In a forked child: let the queue end."},
    {"put", (PyCFunction)queue_put, METH_O, "Append bytes, or a value in a 1-tuple."},
    {"get_nowait", (PyCFunction)queue_get_nowait, METH_NOARGS,
     "The next item, ENDMARKER after the end, None if there is none."},
    {"is_set", (PyCFunction)queue_is_set, METH_NOARGS, "Whether nothing more can arrive."},
    {"isSet", (PyCFunction)queue_is_set, METH_NOARGS, "Whether nothing more can arrive."},
    {"set", (PyCFunction)queue_set, METH_NOARGS, "Let nothing more arrive, and wake all who wait."},
    {"wait", (PyCFunction)(void (*)(void))queue_wait, METH_FASTCALL,
     "Wait until nothing more can arrive; returns whether that is so after timeout seconds."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef queue_members[] = {
    {"endmarker", T_OBJECT, offsetof(ItemQueueObject, endmarker), 0,
     "what the callback is called with last"},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef queue_getset[] = {
    {"callback", (getter)queue_get_callback, (setter)queue_set_callback,
     "called with each item, or None", NULL},
    {"strconfig", (getter)queue_get_strconfig, (setter)queue_set_strconfig,
     "(py2str_as_py3str, py3str_as_py2str)", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, "What waits to be received on one channel."},
    {Py_tp_init, queue_init},
    {Py_tp_new, PyType_GenericNew},
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
