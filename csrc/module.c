/* The module execnet._core: its start, its end, and the one exported symbol. */
#include "types.h"

/* A gateway_base uses the core that says the same of itself as its own CORE_ABI. */
#define CORE_ABI "2.2.7"

ModuleState *
module_state(PyObject *module)
{
    ModuleState *state = PyModule_GetState(module);

    assert(state != NULL);
    return state;
}

/* Each file of types adds its own; a new file gets its line here and its types in ModuleState. */
static int
module_exec(PyObject *module)
{
    if (!int_layout_is_known()) {
        PyErr_SetString(PyExc_ImportError, "this Python keeps integers in another way");
        return -1;
    }
    if (codec_add_types(module) < 0) {
        return -1;
    }
#ifndef CORE_HAS_VALUES_ONLY
    ModuleState *state = module_state(module);

    atomic_init(&state->main_thread, PyThread_get_thread_ident());
    atomic_init(&state->helpers, 0);
    state->fork_mark = fork_mark_new();
    state->thread_module = PyImport_ImportModule("_thread");
    state->starter_name = PyUnicode_InternFromString("start_new_thread");
    if (state->thread_module == NULL || state->starter_name == NULL) {
        return -1;
    }
    if (channel_add_types(module) < 0 || connection_add_types(module) < 0 ||
        itemqueue_add_types(module) < 0) {
        return -1;
    }
#endif
    return PyModule_AddStringConstant(module, "ABI", CORE_ABI);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    ModuleState *state = module_state(module);

    Py_VISIT(state->codec_type);
    Py_VISIT(state->channel_type);
    Py_VISIT(state->itemqueue_type);
    Py_VISIT(state->connection_type);
#ifndef CORE_HAS_VALUES_ONLY
    Py_VISIT(state->thread_module);
#endif
    return 0;
}

static int
module_clear(PyObject *module)
{
    ModuleState *state = module_state(module);

    Py_CLEAR(state->codec_type);
    Py_CLEAR(state->channel_type);
    Py_CLEAR(state->itemqueue_type);
    Py_CLEAR(state->connection_type);
#ifndef CORE_HAS_VALUES_ONLY
    Py_CLEAR(state->thread_module);
    Py_CLEAR(state->starter_name);
#endif
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear(module);
#ifndef CORE_HAS_VALUES_ONLY
    fork_mark_free(&module_state(module)->fork_mark);
#endif
}

#ifndef CORE_HAS_VALUES_ONLY
static PyObject *
module_set_main_thread(PyObject *module, PyObject *ident)
{
    unsigned long thread = PyLong_AsUnsignedLong(ident);

    if (thread == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    atomic_store(&module_state(module)->main_thread, thread);
    Py_RETURN_NONE;
}

static PyObject *
module_settle(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    fork_settle(&module_state(module)->fork_mark);
    Py_RETURN_NONE;
}

/* No critical section: a thread that is not in a forked child may have taken it along. */
static PyObject *
module_unlocked_keys(PyObject *Py_UNUSED(module), PyObject *table)
{
    PyObject *keys, *key;
    Py_ssize_t at = 0;

    if (!PyDict_CheckExact(table)) {
        return PyErr_Format(PyExc_TypeError, "unlocked_keys() takes a dict, not %.200s",
                            Py_TYPE(table)->tp_name);
    }
    keys = PyList_New(0);
    while (keys != NULL && PyDict_Next(table, &at, &key, NULL)) {
        if (PyList_Append(keys, key) < 0) {
            Py_CLEAR(keys);
        }
    }
    return keys;
}

static PyObject *
module_helpers(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(atomic_load(&module_state(module)->helpers));
}

#ifndef Py_GIL_DISABLED
/* The GIL is kept: no thread of Python goes on while the handlers run that C code has left for the
 * end. */
static PyObject *
module_leave(PyObject *Py_UNUSED(module), PyObject *status)
{
    long number = PyLong_AsLong(status);

    if (number == -1 && PyErr_Occurred()) {
        return NULL;
    }
    exit((int)number);
}
#endif
#endif

static PyMethodDef module_methods[] = {
#ifndef CORE_HAS_VALUES_ONLY
    {"set_main_thread", module_set_main_thread, METH_O,
     "Say which thread is the main thread: what get_ident() gives there."},
    {"settle", module_settle, METH_NOARGS,
     "In a forked child: what is sent from now on is by gateways of its own."},
    {"unlocked_keys", module_unlocked_keys, METH_O,
     "The keys of a dict, without its lock: only where no other thread is, as in a forked child."},
    {"helpers", module_helpers, METH_NOARGS,
     "How many threads that nobody can join will use this interpreter again."},
#ifndef Py_GIL_DISABLED
    {"leave", module_leave, METH_O,
     "End the process as a C program ends, with that exit status, the interpreter as it is."},
#endif
#endif
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "execnet._core",
    .m_doc = "The hot core of execnet.gateway_base in C.",
    .m_size = sizeof(ModuleState),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&module_def);
}
