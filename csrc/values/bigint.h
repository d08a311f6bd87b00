/* Integers beyond 32 bits in decimal. */
#ifndef EXECNET_BIGINT_H
#define EXECNET_BIGINT_H

#include "state.h"

/* What is larger is converted by gateway_base's _digits_from_int and _int_from_digits: CPython's
   own functions need not convert more than 640 digits. */
enum {
    BIGINT_BITS = 1890,
    BIGINT_DIGITS = 576,             /* decimal digits of an int of BIGINT_BITS, at most */
    BIGINT_TEXT = BIGINT_DIGITS + 1, /* a minus before them */
};

/* Write the decimal text of `value`, an exact int other than 0, to `text`; its length, 0 if it is
 * too large, or -1 with MemoryError. */
int bigint_format(PyObject *value, char text[BIGINT_TEXT]);

/* The int of 1 to BIGINT_DIGITS ASCII digits (checked by the caller), `negative` if a minus is
 * before them. */
PyObject *bigint_parse(const char *text, int length, bool negative);

#endif
