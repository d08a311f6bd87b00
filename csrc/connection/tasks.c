/* Which tasks run, to be told without the GIL: a list with a lock of its own, a leaf. */
#include "connection/tasks.h"

#include <stdio.h>

struct Task {
    struct Task *next;
    int32_t channel;
    unsigned long thread;
    int64_t begun; /* fdio_now's milliseconds */
    char name[];
};

int
tasks_begin(ConnectionObject *connection, int32_t channel, const char *file, const char *function)
{
    const char *form = function == NULL ? "%s" : "%s, %s()";
    size_t size = strlen(file) + (function == NULL ? 0 : strlen(function)) + sizeof ", ()";
    Task *task = PyMem_RawMalloc(sizeof *task + size);

    if (task == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    task->channel = channel;
    task->thread = PyThread_get_thread_ident();
    task->begun = fdio_now();
    (void)snprintf(task->name, size, form, file, function);
    mutex_lock(&connection->tasks_lock);
    task->next = connection->tasks;
    connection->tasks = task;
    mutex_unlock(&connection->tasks_lock);
    return 0;
}

void
tasks_end(ConnectionObject *connection, int32_t channel)
{
    mutex_lock(&connection->tasks_lock);
    Task **link = &connection->tasks;
    while (*link != NULL && (*link)->channel != channel) {
        link = &(*link)->next;
    }
    Task *ended = *link;
    if (ended != NULL) {
        *link = ended->next;
    }
    mutex_unlock(&connection->tasks_lock);
    PyMem_RawFree(ended);
}

size_t
tasks_describe(ConnectionObject *connection, char *to, size_t size)
{
    size_t filled = 0;

    mutex_lock(&connection->tasks_lock);
    for (Task *task = connection->tasks; task != NULL && filled < size; task = task->next) {
        double seconds = (double)(fdio_now() - task->begun) / 1000;
        int length = snprintf(to + filled, size - filled,
                              "Task of channel %d, for %.1f seconds in thread 0x%016lx: %s\n",
                              (int)task->channel, seconds, task->thread, task->name);
        filled += length > 0 ? (size_t)length : 0;
    }
    mutex_unlock(&connection->tasks_lock);
    return filled < size ? filled : size;
}

void
tasks_disown(ConnectionObject *connection)
{
    mutex_init(&connection->tasks_lock);
}

void
tasks_release(ConnectionObject *connection)
{
    while (connection->tasks != NULL) {
        Task *task = connection->tasks;
        connection->tasks = task->next;
        PyMem_RawFree(task);
    }
}
