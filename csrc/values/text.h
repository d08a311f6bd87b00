/* Text that is not all ASCII. */
#ifndef EXECNET_TEXT_H
#define EXECNET_TEXT_H

#include "state.h"

/* UnicodeDecodeError where it is not UTF-8. */
PyObject *utf8_decode(const char *data, Py_ssize_t size);

#endif
