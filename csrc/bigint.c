/* Integers too large for a machine word, to decimal and back.

   Here is only what is small enough for simple arithmetic on the stack, quadratic with a small bound. No public
   function of CPython gives the digits of an int in all supported versions, so the two that are read here are
   named in one place each. */
#include "core.h"

#if PY_VERSION_HEX < 0x030B0000
#include <longintrepr.h>
#endif

enum {
    LIMBS = 64,              /* 32-bit limbs, enough for BIGINT_DIGITS: 576 * log2(10) / 32 = 59.8 */
    CHUNK_DIGITS = 9,        /* decimal digits that fit a 32-bit limb */
    CHUNK = 1000000000,      /* 10 ** CHUNK_DIGITS */
    CHUNKS = BIGINT_TEXT / CHUNK_DIGITS,
};

/* The value's digits in base 2 ** PyLong_SHIFT, least significant first. */
static const digit *
long_digits(PyObject *value, Py_ssize_t *count, bool *negative)
{
    PyLongObject *self = (PyLongObject *)value;
#if PY_VERSION_HEX >= 0x030C0000
    *count = (Py_ssize_t)(self->long_value.lv_tag >> 3);
    *negative = (self->long_value.lv_tag & 3) == 2;
    return self->long_value.ob_digit;
#else
    *count = Py_ABS(Py_SIZE(self));
    *negative = Py_SIZE(self) < 0;
    return self->ob_digit;
#endif
}

/* Four digits by two divisions that do not wait for one another. */
static inline void
put_four(char *to, uint32_t number)
{
    uint32_t upper = number / 100;
    uint32_t lower = number % 100;

    to[0] = (char)('0' + upper / 10);
    to[1] = (char)('0' + upper % 10);
    to[2] = (char)('0' + lower / 10);
    to[3] = (char)('0' + lower % 10);
}

/* Write a chunk as exactly nine digits. */
static inline void
put_chunk(char *to, uint32_t chunk)
{
    uint32_t upper = chunk / 10000;

    to[0] = (char)('0' + upper / 10000);
    put_four(to + 1, upper % 10000);
    put_four(to + 5, chunk % 10000);
}

int
bigint_format(PyObject *value, char text[BIGINT_TEXT])
{
    uint32_t chunks[CHUNKS];
    int used = 0;
    Py_ssize_t count;
    bool negative;
    const digit *digits = long_digits(value, &count, &negative);

    for (Py_ssize_t i = count - 1; i >= 0; i--) {
        uint64_t carry = digits[i];
        for (int k = 0; k < used; k++) {
            carry += (uint64_t)chunks[k] << PyLong_SHIFT;
            chunks[k] = (uint32_t)(carry % CHUNK);
            carry /= CHUNK;
        }
        while (carry != 0) {
            if (used == BIGINT_DIGITS / CHUNK_DIGITS) {
                return 0;
            }
            chunks[used++] = (uint32_t)(carry % CHUNK);
            carry /= CHUNK;
        }
    }

    char *at = text;
    if (negative) {
        *at++ = '-';
    }
    if (used == 0) {
        *at++ = '0';
        return (int)(at - text);
    }
    char first[CHUNK_DIGITS];
    put_chunk(first, chunks[used - 1]);
    int zeros = 0;
    while (first[zeros] == '0') {
        zeros++;
    }
    memcpy(at, first + zeros, (size_t)(CHUNK_DIGITS - zeros));
    at += CHUNK_DIGITS - zeros;
    for (int k = used - 2; k >= 0; k--) {
        put_chunk(at, chunks[k]);
        at += CHUNK_DIGITS;
    }
    return (int)(at - text);
}

static inline uint32_t
get_four(const char *digits)
{
    return (uint32_t)((digits[0] - '0') * 1000 + (digits[1] - '0') * 100 + (digits[2] - '0') * 10 +
                      (digits[3] - '0'));
}

static inline uint32_t
get_chunk(const char *digits)
{
    return (uint32_t)(digits[0] - '0') * 100000000 + get_four(digits + 1) * 10000 +
           get_four(digits + 5);
}

/* limbs = limbs * factor + carry; gives the new number of limbs. */
static int
multiply_add(uint32_t limbs[LIMBS], int used, uint32_t factor, uint32_t carry)
{
    for (int i = 0; i < used; i++) {
        uint64_t product = (uint64_t)limbs[i] * factor + carry;
        limbs[i] = (uint32_t)product;
        carry = (uint32_t)(product >> 32);
    }
    if (carry != 0) {
        assert(used < LIMBS);
        limbs[used++] = carry;
    }
    return used;
}

/* The int of little-endian two's complement bytes. */
static PyObject *
long_from_bytes(const unsigned char *bytes, size_t size)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyLong_FromNativeBytes(bytes, size, Py_ASNATIVEBYTES_LITTLE_ENDIAN);
#else
    return _PyLong_FromByteArray(bytes, size, 1, 1);
#endif
}

PyObject *
bigint_parse(const char *digits, int count, bool negative)
{
    uint32_t limbs[LIMBS];
    int used = 0;

    assert(count > 0 && count <= BIGINT_DIGITS);
    int first = count % CHUNK_DIGITS;
    uint32_t chunk = 0;
    uint32_t factor = 1;
    for (int i = 0; i < first; i++) {
        chunk = chunk * 10 + (uint32_t)(digits[i] - '0');
        factor *= 10;
    }
    used = multiply_add(limbs, used, factor, chunk);
    for (int at = first; at < count; at += CHUNK_DIGITS) {
        used = multiply_add(limbs, used, CHUNK, get_chunk(digits + at));
    }

    unsigned char bytes[LIMBS * 4 + 1];
    size_t size = 0;
    uint32_t carry = 1; /* two's complement: invert, add one */
    for (int i = 0; i < used; i++) {
        uint32_t limb = limbs[i];
        if (negative) {
            limb = ~limb + carry;
            carry = carry && limb == 0;
        }
        for (int k = 0; k < 4; k++) {
            bytes[size++] = (unsigned char)(limb >> (8 * k));
        }
    }
    bytes[size++] = negative && used > 0 ? 0xff : 0;
    return long_from_bytes(bytes, size);
}
