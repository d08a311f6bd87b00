/* The item queue: what waits to be received on one channel. Who wakes whom is reading.c's. */
#include "connection/itemqueue.h"

#include "connection/disown.h"
#include "connection/waking.h"

Reading *
itemqueue_reading(ItemQueueObject *queue)
{
    (void)disown_if_forked(queue->connection);
    return &queue->connection->reading;
}

static int
enlarge(ItemQueueObject *queue)
{
    size_t capacity = queue->arrived.capacity == 0 ? 8 : queue->arrived.capacity * 2;
    ReadingItem *larger = PyMem_New(ReadingItem, capacity);

    if (larger == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyMem_Free(reading_enlarge(itemqueue_reading(queue), &queue->arrived, larger, capacity));
    return 0;
}

PutOutcome
itemqueue_put(ItemQueueObject *queue, PyObject *object, bool built)
{
    ReadingItem item = {Py_NewRef(object), built};
    Told told = NULL;
    Arrival arrival;

    while ((arrival = reading_arrive(itemqueue_reading(queue), &queue->arrived, item, &told)) ==
           ARRIVAL_NEEDS_ROOM) {
        if (enlarge(queue) < 0) {
            Py_DECREF(object);
            return PUT_ERROR;
        }
    }
    waking_wake(queue->connection, told);
    if (arrival != ARRIVAL_QUEUED) {
        Py_DECREF(object);
    }
    return arrival == ARRIVAL_IS_FOR_CALLBACK ? PUT_IS_FOR_CALLBACK : PUT_DONE;
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
    if (queue->is_open) {
        queue->is_open = false;
        (void)atomic_fetch_sub(&queue->connection->open_channels, 1);
    }
}

void
itemqueue_end(ItemQueueObject *queue)
{
    Told told = NULL;

    count_no_longer(queue);
    (void)reading_end(itemqueue_reading(queue), &queue->arrived, &told);
    waking_wake(queue->connection, told);
}

/* Compare and delete: another queue may have the id by now. */
static int
unregister(const ItemQueueObject *queue, int32_t id)
{
    PyObject *queues = queue->connection->queues;
    PyObject *key = queues == NULL ? NULL : PyLong_FromLong(id);
    int outcome = 0;

    if (key == NULL) {
        return queues == NULL ? 0 : -1;
    }
    PyObject *registered = PyDict_GetItemWithError(queues, key);
    if (registered == (PyObject *)queue) {
        outcome = PyDict_DelItem(queues, key);
    } else if (registered == NULL && PyErr_Occurred()) {
        outcome = -1;
    }
    Py_DECREF(key);
    return outcome;
}

int
itemqueue_drop(ItemQueueObject *queue, int32_t id)
{
    queue->dropped = true;
    count_no_longer(queue);
    return queue->callback == Py_None ? unregister(queue, id) : 0;
}
