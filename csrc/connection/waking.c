/* How threads of a connection sleep and are woken: on a lock, or, while they poll, by its waker. */
#include "connection/waking.h"

/* ThreadSanitizer does not know sem_clockwait(), by which a lock is waited for with a timeout: it
   is told that the waking thread is done before the one that slept goes on. */
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define SLEPT(lock) __tsan_acquire(lock)
#define WAKES(lock) __tsan_release(lock)
#else
#define SLEPT(lock) ((void)(lock))
#define WAKES(lock) ((void)(lock))
#endif

enum { SIGNALS_MS = 50 };

PyThread_type_lock
waking_new(void)
{
    PyThread_type_lock wakeup = PyThread_allocate_lock();

    if (wakeup == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    (void)PyThread_acquire_lock(wakeup, NOWAIT_LOCK);
    return wakeup;
}

bool
waking_sleep(PyThread_type_lock wakeup, int64_t milliseconds)
{
    PY_TIMEOUT_T microseconds = milliseconds < 0 ? -1 : (PY_TIMEOUT_T)milliseconds * 1000;

    if (PyThread_acquire_lock_timed(wakeup, microseconds, 1) != PY_LOCK_ACQUIRED) {
        return false;
    }
    SLEPT(wakeup);
    return true;
}

void
waking_take(const ConnectionObject *connection, const Sleeper *sleeper)
{
    if (sleeper->by_waker) {
        fdio_waker_take(&connection->waker);
    } else {
        (void)PyThread_acquire_lock(sleeper->wakeup, WAIT_LOCK);
    }
}

void
waking_wake(const ConnectionObject *connection, Told told)
{
    while (told != NULL) {
        /* Once woken, the thread may be gone, and its Sleeper with it. */
        Sleeper *next = told->next_told;
        if (told->by_waker) {
            fdio_wake(&connection->waker);
        } else {
            WAKES(told->wakeup);
            PyThread_release_lock(told->wakeup);
        }
        told = next;
    }
}

/* One that is open is the connection's, if that has none yet and will still need one. Whether it is
   so, and the connection has one. */
static bool
take_waker(ConnectionObject *connection, const FdioWaker *waker, bool *has_waker)
{
    Reading *reading = &connection->reading;

    LOCK_WITHOUT_GIL(reading);
    bool takes = waker != NULL && !connection->has_waker && !reading->stopped;
    if (takes) {
        connection->waker = *waker;
        connection->has_waker = true;
    }
    *has_waker = connection->has_waker;
    UNLOCK_WITHOUT_GIL(reading);
    return takes;
}

bool
waking_ensure_waker(ConnectionObject *connection)
{
    FdioWaker waker;
    bool has_waker;

    (void)take_waker(connection, NULL, &has_waker);
    if (!has_waker && fdio_waker_open(&waker) && !take_waker(connection, &waker, &has_waker)) {
        fdio_waker_close(&waker);
    }
    return has_waker;
}

void
waking_close_waker(ConnectionObject *connection)
{
    Reading *reading = &connection->reading;

    LOCK_WITHOUT_GIL(reading);
    bool had_waker = connection->has_waker;
    connection->has_waker = false;
    UNLOCK_WITHOUT_GIL(reading);
    if (had_waker) {
        fdio_waker_close(&connection->waker);
    }
}

bool
waking_is_main(const ConnectionObject *connection, unsigned long ident)
{
    ModuleState *state = PyType_GetModuleState(Py_TYPE(connection));

    return ident == atomic_load(&state->main_thread);
}

bool
waking_is_main_thread(const ConnectionObject *connection)
{
    return waking_is_main(connection, PyThread_get_thread_ident());
}

/* What is written in C starts threads of the system; Python knows of others (gateway_base). */
int
waking_is_green(const ConnectionObject *connection)
{
    const ModuleState *state = PyType_GetModuleState(Py_TYPE(connection));
    PyObject *starter = PyObject_GetAttr(state->thread_module, state->starter_name);
    PyObject *function, *answer = NULL;
    int is_green = -1;

    if (starter == NULL) {
        return -1;
    }
    if (PyCFunction_CheckExact(starter)) {
        Py_DECREF(starter);
        return 0;
    }
    Py_DECREF(starter);
    function = codec_name(connection->codec->names, "threads_are_green");
    if (function != NULL) {
        answer = PyObject_CallNoArgs(function);
        Py_DECREF(function);
    }
    if (answer != NULL) {
        is_green = PyObject_IsTrue(answer);
        Py_DECREF(answer);
    }
    return is_green;
}

int
waking_doze(const ConnectionObject *connection, double *delay)
{
    PyObject *function = codec_name(connection->codec->names, "_doze");
    PyObject *next = NULL;

    if (function != NULL) {
        next = PyObject_CallFunction(function, "d", *delay);
        Py_DECREF(function);
    }
    if (next == NULL) {
        return -1;
    }
    *delay = PyFloat_AsDouble(next);
    Py_DECREF(next);
    return *delay == -1.0 && PyErr_Occurred() ? -1 : 0;
}

int64_t
waking_time_left(int64_t deadline)
{
    if (deadline == FDIO_FOREVER) {
        return FDIO_FOREVER;
    }
    int64_t left = deadline - fdio_now();
    return left > 0 ? left : 0;
}

int64_t
waking_longest_sleep(bool is_main_thread, int64_t deadline)
{
    int64_t left = waking_time_left(deadline);

    if (is_main_thread && (left < 0 || left > SIGNALS_MS)) {
        return SIGNALS_MS;
    }
    return left;
}
