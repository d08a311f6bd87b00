/* Text from UTF-8. */
#ifndef EXECNET_TEXT_H
#define EXECNET_TEXT_H

#include "state.h"

/* UnicodeDecodeError where it is not UTF-8. */
PyObject *text_decode(const char *data, Py_ssize_t size);

#endif
