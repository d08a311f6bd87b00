/* The bytes of the wire: message codes, a value's opcodes, numbers. No Python.h. */
#ifndef EXECNET_WIRE_H
#define EXECNET_WIRE_H

#include <stdint.h>
#include <string.h>

/* The message codes (doc/wire.rst, "Messages"). */
enum {
    MESSAGE_STATUS,
    MESSAGE_RECONFIGURE,
    MESSAGE_GATEWAY_TERMINATE,
    MESSAGE_CHANNEL_EXEC,
    MESSAGE_CHANNEL_DATA,
    MESSAGE_CHANNEL_CLOSE,
    MESSAGE_CHANNEL_CLOSE_ERROR,
    MESSAGE_CHANNEL_LAST_MESSAGE,
    MESSAGE_CODES,
};

/* What a question about stacks begins with, as any of them does: one that nobody reads is found by
   it (doc/wire.rst, "Messages"). */
#define STACKS_QUESTION "# execnet: where does this worker stand?\n"

/* The opcodes of a value. */
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

/* Spelled out, not as loops: only so compilers make one load or store of it. */

/* Eight bytes, the first lowest. */
static inline uint64_t
wire_get_word(const char *from)
{
    const unsigned char *at = (const unsigned char *)from;

    return (uint64_t)at[7] << 56 | (uint64_t)at[6] << 48 | (uint64_t)at[5] << 40 |
           (uint64_t)at[4] << 32 | (uint64_t)at[3] << 24 | (uint64_t)at[2] << 16 |
           (uint64_t)at[1] << 8 | at[0];
}

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

#endif
