/* What the files of the C core share: the module's state, the codec, buffers, and who offers what. */
#ifndef EXECNET_CORE_H
#define EXECNET_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Each file with types of its own adds them through one of these; module.c calls them all. */
int codec_add_types(PyObject *module);

#endif
