/* The value reader: bytes to values. */
#ifndef EXECNET_LOAD_H
#define EXECNET_LOAD_H

#include "values/codec.h"

typedef struct {
    PyObject *channels; /* .new(id) gives the receiver's channel; NULL: a channel is a LoadError */
    bool py2str_as_py3str; /* PY2STRING becomes latin-1 text, else bytes */
    bool py3str_as_py2str; /* PY3STRING becomes bytes, else text */
} LoadOptions;

/* The value that starts at `data`; what comes after its STOP is ignored. The caller keeps the
 * memory alive. */
PyObject *load_value(CodecObject *codec, const char *data, Py_ssize_t size,
                     const LoadOptions *options);

/* The value that comes next in stream, an object with read(n); nothing after its STOP is read.
   With `version` (a bytes object) that must come first, NULL: nothing does. */
PyObject *load_from_stream(CodecObject *codec, PyObject *stream, PyObject *version,
                           const LoadOptions *options);

/* Raise LoadError for a value that starts with the wrong version. */
void load_wrong_version(CodecObject *codec, const char *found);

#endif
