/* Integers beyond 64 bits in decimal. */
#ifndef EXECNET_BIGINT_H
#define EXECNET_BIGINT_H

#include "state.h"

enum {
    /* Converted in C up to here, by gateway_base's _digits_from_int and _int_from_digits beyond. */
    BIGINT_DIGITS = 576,
    BIGINT_TEXT = BIGINT_DIGITS + 1, /* a minus before them */
};

/* Write the decimal text of `value`, an exact int other than 0, to `text`; its length, or 0 if it
 * is too long. */
int bigint_format(PyObject *value, char text[BIGINT_TEXT]);

/* The int of 1 to BIGINT_DIGITS ASCII digits (checked by the caller). */
PyObject *bigint_parse(const char *text, int length, bool negative);

#endif
