/* The item queue: what waits to be received on one channel. Who wakes whom is reading.c's. */
#include "connection/itemqueue.h"

#include "connection/disown.h"
#include "connection/waking.h"

Reading *
itemqueue_reading(const ItemQueueObject *queue)
{
    (void)disown_if_forked(queue->connection);
    return &queue->connection->reading;
}

static int
enlarge(ItemQueueObject *queue)
{
    Reading *reading = itemqueue_reading(queue);
    LOCK_WITHOUT_GIL(reading);
    size_t capacity = queue->arrived.capacity == 0 ? 8 : queue->arrived.capacity * 2;
    UNLOCK_WITHOUT_GIL(reading);
    ReadingItem *larger = PyMem_New(ReadingItem, capacity);

    if (larger == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyMem_Free(reading_enlarge(reading, &queue->arrived, larger, capacity));
    return 0;
}

/* `function` is NULL for who does not call. */
static ALWAYS_INLINE PutOutcome
put(ItemQueueObject *queue, PyObject *object, bool built, void **function)
{
    ReadingItem item = {Py_NewRef(object), built};
    Told told = NULL;
    Arrival arrival;

    do {
        Reading *reading = itemqueue_reading(queue);
        arrival = function == NULL
                      ? reading_arrive(reading, &queue->arrived, item, &told)
                      : reading_arrive_to_call(reading, &queue->arrived, item, function, &told);
        if (arrival == ARRIVAL_NEEDS_ROOM && enlarge(queue) < 0) {
            Py_DECREF(object);
            return PUT_ERROR;
        }
    } while (arrival == ARRIVAL_NEEDS_ROOM);
    waking_wake(queue->connection, told);
    if (arrival != ARRIVAL_QUEUED) {
        Py_DECREF(object);
    }
    return arrival == ARRIVAL_IS_FOR_CALLBACK ? PUT_IS_FOR_CALLBACK : PUT_DONE;
}

PutOutcome
itemqueue_put(ItemQueueObject *queue, PyObject *object, bool built)
{
    return put(queue, object, built, NULL);
}

PutOutcome
itemqueue_put_to_call(ItemQueueObject *queue, PyObject *object, bool built, PyObject **function)
{
    void *found = NULL;
    PutOutcome outcome = put(queue, object, built, &found);

    *function = found;
    return outcome;
}

/* Where there is no memory left for it, the item is lost. */
void
itemqueue_give_back(ItemQueueObject *queue, PyObject *object, bool built)
{
    ReadingItem item = {object, built};
    PyObject *type, *error, *traceback;
    Told told = NULL;

    PyErr_Fetch(&type, &error, &traceback);
    while (reading_give_back(itemqueue_reading(queue), &queue->arrived, item, &told) ==
           ARRIVAL_NEEDS_ROOM) {
        if (enlarge(queue) < 0) {
            PyErr_Clear();
            Py_DECREF(object);
            break;
        }
    }
    waking_wake(queue->connection, told);
    PyErr_Restore(type, error, traceback);
}

static void
count_no_longer(ItemQueueObject *queue)
{
    if (queue->is_open && atomic_exchange(&queue->is_open, false)) {
        (void)atomic_fetch_sub(&queue->connection->open_channels, 1);
    }
}

void
itemqueue_end(ItemQueueObject *queue)
{
    Told told = NULL;

    if (queue->closed) {
        count_no_longer(queue);
    }
    (void)reading_end(itemqueue_reading(queue), &queue->arrived, &told);
    waking_wake(queue->connection, told);
}

/* What was taken out under the key is another queue's place, one that came just now. */
static int
put_back(PyObject *queues, PyObject *key, PyObject *other)
{
    PyObject *there = PyDict_SetDefault(queues, key, other);

    return there == NULL ? -1 : 0;
}

/* Compare and delete: another queue may have the id by now. */
static int
unregister(const ItemQueueObject *queue, int32_t id)
{
    /* In a forked child a thread that is not there may have locked the parent's. */
    bool is_parents = disown_if_forked(queue->connection);
    PyObject *queues = is_parents ? NULL : queue->connection->queues;
    PyObject *key = queues == NULL ? NULL : PyLong_FromLong(id);
    PyObject *registered;

    if (key == NULL) {
        return queues == NULL ? 0 : -1;
    }
    int outcome = PyDict_GetItemRef(queues, key, &registered);
    if (registered == (PyObject *)queue) {
        Py_DECREF(registered);
        outcome = PyDict_Pop(queues, key, &registered);
        if (outcome > 0 && registered != (PyObject *)queue) {
            outcome = put_back(queues, key, registered);
        }
    }
    Py_XDECREF(registered);
    Py_DECREF(key);
    return outcome < 0 ? -1 : 0;
}

int
itemqueue_end_plain(ItemQueueObject *queue, int32_t id, bool may_send)
{
    Told told = NULL;

    if (!reading_end_plain(itemqueue_reading(queue), &queue->arrived, &told)) {
        return 0;
    }
    int outcome = 0;
    if (!may_send) {
        count_no_longer(queue);
        outcome = unregister(queue, id);
    }
    waking_wake(queue->connection, told);
    return outcome < 0 ? -1 : 1;
}

int
itemqueue_drop(ItemQueueObject *queue, int32_t id)
{
    queue->dropped = true;
    count_no_longer(queue);
    QueueSight sight = itemqueue_look(queue);
    return sight.callback != CALLBACK_NONE && !sight.ended ? 0 : unregister(queue, id);
}

void
itemqueue_abandon_callback(ItemQueueObject *queue)
{
    void *function, *marker;

    reading_abandon_callback(itemqueue_reading(queue), &queue->arrived, &function, &marker);
    Py_XDECREF((PyObject *)function);
    Py_XDECREF((PyObject *)marker);
}
