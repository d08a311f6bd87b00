/* The types of the module: each file of a type has one function, module_exec calls them all. */
#ifndef EXECNET_TYPES_H
#define EXECNET_TYPES_H

#include "state.h"

int codec_add_types(PyObject *module);
int channel_add_types(PyObject *module);
int itemqueue_add_types(PyObject *module);
int connection_add_types(PyObject *module);

#endif
