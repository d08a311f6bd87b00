/* The module execnet._core: its start, its end, and the one exported symbol. */
#include "core.h"

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
    if (codec_add_types(module) < 0) {
        return -1;
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(module_state(module)->codec_type);
    return 0;
}

static int
module_clear(PyObject *module)
{
    Py_CLEAR(module_state(module)->codec_type);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "execnet._core",
    .m_doc = "The hot core of execnet.gateway_base in C.",
    .m_size = sizeof(ModuleState),
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
