/* The value writer: values to bytes. */
#ifndef EXECNET_DUMP_H
#define EXECNET_DUMP_H

#include "values/codec.h"

enum { DUMP_INLINE_BYTES = 1024 };

/* A serialized value. Its bytes are start..pos, then, if `big` is set, big_size bytes at big_data
   and one STOP. Must not be moved while in use: `start` may point into it. */
typedef struct {
    char *start;
    char *pos;
    char *end;
    PyObject *owner; /* the bytes object that holds start..end, or NULL: others do */
    PyObject *big;   /* keeps big_data alive; NULL: there is no such part */
    const char *big_data;
    Py_ssize_t big_size;
    char inline_bytes[DUMP_INLINE_BYTES];
} DumpBuffer;

/* Values of this many bytes and more are left where they are by dump_message. */
enum { DUMP_BIG = 64 * 1024 };

/* Serialize `value`, which goes over `gateway`, without version byte after `reserve` (<=
   DUMP_INLINE_BYTES) unset bytes, for one write, or for one writev where the value is one large
   bytes or str: that is borrowed, not copied. On success the caller owns *out and ends it with
   dump_release; on failure (-1, exception set) there is nothing to release. */
int dump_message(CodecObject *codec, PyObject *value, PyObject *gateway, Py_ssize_t reserve,
                 DumpBuffer *out);
void dump_release(DumpBuffer *buffer);

/* The whole of start..pos plus `big` and STOP. */
static inline Py_ssize_t
dump_size(const DumpBuffer *buffer)
{
    return (buffer->pos - buffer->start) + (buffer->big != NULL ? buffer->big_size + 1 : 0);
}

/* Serialize to a bytes object that begins with `prefix_size` given bytes; `gateway`, which it goes
   over, may be NULL. */
PyObject *dump_to_bytes(CodecObject *codec, PyObject *value, PyObject *gateway, const char *prefix,
                        Py_ssize_t prefix_size);

#endif
