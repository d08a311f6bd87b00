/* What the files of the C core share: the module's state, the codec, serialized values, who offers
 * what. */
#ifndef EXECNET_CORE_H
#define EXECNET_CORE_H

#include "pycompat.h"

#include "forked.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* For what is called seldom: inlined, it would have its frequent caller save registers for it. And
   for what has a frequent caller and a rare one. */
#ifdef __GNUC__
#define NEVER_INLINE __attribute__((noinline))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define NEVER_INLINE
#define ALWAYS_INLINE inline
#endif

/* ---- module.c: one module, everything it needs in its own state ---- */

typedef struct {
    PyTypeObject *codec_type;
    PyTypeObject *channel_type;
    PyTypeObject *itemqueue_type;
    PyTypeObject *connection_type;
    atomic_ulong
        main_thread; /* its ident, as gateway_base says: the one that runs signal handlers */
    ForkMark fork_mark;
} ModuleState;

ModuleState *module_state(PyObject *module);

/* ---- the wire: opcodes of a value ---- */

enum {
    OP_BUILDTUPLE = '@',
    OP_BYTES = 'A',
    OP_CHANNEL = 'B',
    OP_FALSE = 'C',
    OP_FLOAT = 'D',
    OP_FROZENSET = 'E',
    OP_INT = 'F',
    OP_LONG = 'G',
    OP_LONGINT = 'H',
    OP_LONGLONG = 'I',
    OP_NEWDICT = 'J',
    OP_NEWLIST = 'K',
    OP_NONE = 'L',
    OP_PY2STRING = 'M',
    OP_PY3STRING = 'N',
    OP_SET = 'O',
    OP_SETITEM = 'P',
    OP_STOP = 'Q',
    OP_TRUE = 'R',
    OP_UNICODE = 'S',
    OP_COMPLEX = 'T',
};

static inline void
wire_put_int4(char *to, int32_t value)
{
    uint32_t bits = (uint32_t)value;

    to[0] = (char)(bits >> 24);
    to[1] = (char)(bits >> 16);
    to[2] = (char)(bits >> 8);
    to[3] = (char)bits;
}

static inline int32_t
wire_get_int4(const char *from)
{
    const unsigned char *at = (const unsigned char *)from;

    return (int32_t)((uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3]);
}

/* Spelled out, not as a loop: only so compilers make one load or store of it. */

static inline void
wire_put_double(char *to, double number)
{
    uint64_t bits;

    memcpy(&bits, &number, sizeof bits);
    to[0] = (char)(bits >> 56);
    to[1] = (char)(bits >> 48);
    to[2] = (char)(bits >> 40);
    to[3] = (char)(bits >> 32);
    to[4] = (char)(bits >> 24);
    to[5] = (char)(bits >> 16);
    to[6] = (char)(bits >> 8);
    to[7] = (char)bits;
}

static inline double
wire_get_double(const char *from)
{
    const unsigned char *at = (const unsigned char *)from;
    uint64_t bits = (uint64_t)at[0] << 56 | (uint64_t)at[1] << 48 | (uint64_t)at[2] << 40 |
                    (uint64_t)at[3] << 32 | (uint64_t)at[4] << 24 | (uint64_t)at[5] << 16 |
                    (uint64_t)at[6] << 8 | at[7];
    double number;

    memcpy(&number, &bits, sizeof number);
    return number;
}

/* ---- limits that both cores share (gateway_base.py has the same names) ---- */

/* Containers inside containers a writer accepts; also tuples inside a hashed tuple a reader
 * accepts. */
#define MAX_DEPTH 400
/* List elements one value may claim without ever assigning them. */
#define MAX_UNASSIGNED 65536

/* ---- codec.c: what one gateway_base module and its values belong to ---- */

enum {
    KEY_CACHE_SLOTS = 256,
    KEY_CACHE_LONGEST = 32,
    SCRATCH_BYTES = 64 * 1024,
};

/* Made by gateway_base from its own globals, so that a value raises the very exceptions of the
   module that was asked, even where two such modules live in one process (a shipped text as
   __main__, and the import). */
typedef struct {
    PyObject_HEAD
    PyObject *names; /* the gateway module's globals */
    PyObject *dump_error;
    PyObject *load_error;
    PyTypeObject *channel_type;
    PyObject *str_id, *str_new, *str_read, *str_reducers, *str_version;
    /* Where values are written before they become a bytes object of the right size. */
    char *scratch; /* NULL: not yet needed */
    bool scratch_in_use;
    /* Short dictionary keys seen lately: the same few come in message after message. Entries may be
     * NULL. */
    PyObject *key_cache[KEY_CACHE_SLOTS];
} CodecObject;

/* Whether what is raised says of bytes that they are no value. */
bool codec_finds_unreadable(const CodecObject *codec);

/* What a codec's names have under `name` now, owned; KeyError where they have nothing. */
PyObject *codec_name(PyObject *names, const char *name);

/* ---- dump.c: values to bytes ---- */

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

/* Serialize `value`, which goes over `gateway`, without version byte behind `reserve` (<=
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

/* ---- load.c: bytes to values ---- */

typedef struct {
    PyObject *channels; /* .new(id) gives the receiver's channel; NULL: a channel is a LoadError */
    bool py2str_as_py3str; /* PY2STRING becomes latin-1 text, else bytes */
    bool py3str_as_py2str; /* PY3STRING becomes bytes, else text */
} LoadOptions;

/* The value that starts at `data`; what is behind its STOP is ignored. The caller keeps the memory
 * alive. */
PyObject *load_value(CodecObject *codec, const char *data, Py_ssize_t size,
                     const LoadOptions *options);

/* The value that stands next in stream, an object with read(n); nothing behind its STOP is read.
   With `version` (a bytes object) that must come first, NULL: nothing does. */
PyObject *load_from_stream(CodecObject *codec, PyObject *stream, PyObject *version,
                           const LoadOptions *options);

/* Raise LoadError for a value that starts with the wrong version. */
void load_wrong_version(CodecObject *codec, const char *found);

/* ---- utf8.c: text that is not all ASCII ---- */

/* UnicodeDecodeError where it is not UTF-8. */
PyObject *utf8_decode(const char *data, Py_ssize_t size);

/* ---- bigint.c: integers beyond 64 bits in decimal ---- */

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
