/* Integers too large for a machine word, to decimal and back.

   Here is only what is small enough for simple arithmetic on the stack, quadratic with a small
   bound: chunks of nine decimal digits on one side, CPython's own digits on the other. No public
   function of CPython gives or takes the digits of an int in all supported versions, so the layouts
   that are used are named in one place each. */
#include "core.h"

#if PY_VERSION_HEX < 0x030B0000
#include <longintrepr.h>
#endif

enum {
    CHUNK_DIGITS = 9,
    CHUNK = 1000000000, /* 10 ** CHUNK_DIGITS */
    MOST_CHUNKS = BIGINT_DIGITS / CHUNK_DIGITS,
    /* CPython digits of BIGINT_DIGITS decimal ones: log2(10) is 3.32 */
    MOST_DIGITS = BIGINT_DIGITS * 333 / 100 / PyLong_SHIFT + 2,
};

/* ---- CPython's layout ---- */

/* The value's digits in base 2 ** PyLong_SHIFT, least significant first. */
static inline const digit *
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

/* The int of such digits, the most significant of them not 0. */
static inline PyObject *
long_from_digits(const digit *digits, int count, bool negative)
{
    if (count <= 1) {
        long number = count == 0 ? 0 : (long)digits[0];
        return PyLong_FromLong(negative ? -number : number);
    }
#if PY_VERSION_HEX >= 0x030C0000
    return (PyObject *)_PyLong_FromDigits(negative, count, (digit *)digits);
#else
    PyLongObject *self = _PyLong_New(count);
    if (self != NULL) {
        for (int i = 0; i < count; i++) {
            self->ob_digit[i] = digits[i];
        }
        if (negative) {
            Py_SET_SIZE(self, -count);
        }
    }
    return (PyObject *)self;
#endif
}

/* ---- to decimal ---- */

/* 00 to 99, two characters each. */
static const char PAIRS[] = "0001020304050607080910111213141516171819"
                            "2021222324252627282930313233343536373839"
                            "4041424344454647484950515253545556575859"
                            "6061626364656667686970717273747576777879"
                            "8081828384858687888990919293949596979899";

static inline void
put_four(char *to, uint32_t number)
{
    memcpy(to, PAIRS + 2 * (number / 100), 2);
    memcpy(to + 2, PAIRS + 2 * (number % 100), 2);
}

/* A chunk as exactly nine digits. */
static inline void
put_chunk(char *to, uint32_t chunk)
{
    uint32_t upper = chunk / 10000;

    to[0] = (char)('0' + upper / 10000);
    put_four(to + 1, upper % 10000);
    put_four(to + 5, chunk % 10000);
}

/* A chunk without leading zeros; gives the end. Writes nine bytes in any case. */
static inline char *
put_first_chunk(char *to, uint32_t chunk)
{
    char text[2 * CHUNK_DIGITS];
    int length = 1;

    for (uint32_t limit = 10; length < CHUNK_DIGITS && chunk >= limit; limit *= 10) {
        length++;
    }
    put_chunk(text, chunk);
    memset(text + CHUNK_DIGITS, 0, CHUNK_DIGITS);
    memcpy(to, text + CHUNK_DIGITS - length, CHUNK_DIGITS);
    return to + length;
}

/* The value in chunks, least significant first; gives their number, 0 if there are too many. */
static int
split_chunks(const digit *digits, Py_ssize_t count, uint32_t chunks[MOST_CHUNKS])
{
    int used = 0;

    for (Py_ssize_t i = count - 1; i >= 0; i--) {
        uint64_t carry = digits[i];
        for (int k = 0; k < used; k++) {
            carry += (uint64_t)chunks[k] << PyLong_SHIFT;
            chunks[k] = (uint32_t)(carry % CHUNK);
            carry /= CHUNK;
        }
        while (carry != 0) {
            if (used == MOST_CHUNKS) {
                return 0;
            }
            chunks[used++] = (uint32_t)(carry % CHUNK);
            carry /= CHUNK;
        }
    }
    return used;
}

#if defined(__SIZEOF_INT128__) && PyLong_SHIFT == 30
/* The same for 3 or 4 digits, the common sizes, in two divisions of words instead of a dozen. */
static inline int
split_few_chunks(const digit *digits, Py_ssize_t count, uint32_t chunks[MOST_CHUNKS])
{
    const uint64_t two_chunks = (uint64_t)CHUNK * CHUNK;
    unsigned __int128 number = count == 4 ? (unsigned __int128)digits[3] << 90 : 0;

    number |= (unsigned __int128)digits[2] << 60 | (uint64_t)digits[1] << 30 | digits[0];
    uint64_t upper = (uint64_t)(number / two_chunks); /* below 2 ** 120 / 10 ** 18 < 2 ** 61 */
    uint64_t lower = (uint64_t)(number - (unsigned __int128)upper * two_chunks);
    chunks[0] = (uint32_t)(lower % CHUNK);
    chunks[1] = (uint32_t)(lower / CHUNK);
    int used = 2;
    for (; upper != 0; upper /= CHUNK) {
        chunks[used++] = (uint32_t)(upper % CHUNK);
    }
    return used;
}
#else
#define split_few_chunks split_chunks
#endif

int
bigint_format(PyObject *value, char text[BIGINT_TEXT])
{
    uint32_t chunks[MOST_CHUNKS];
    Py_ssize_t count;
    bool negative;
    const digit *digits = long_digits(value, &count, &negative);
    int used = count == 3 || count == 4 ? split_few_chunks(digits, count, chunks)
                                        : split_chunks(digits, count, chunks);

    if (used == 0) {
        return 0;
    }
    char *at = text;
    if (negative) {
        *at++ = '-';
    }
    at = put_first_chunk(at, chunks[used - 1]);
    for (int k = used - 2; k >= 0; k--) {
        put_chunk(at, chunks[k]);
        at += CHUNK_DIGITS;
    }
    return (int)(at - text);
}

/* ---- from decimal ---- */

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

/* digits = digits * factor + carry; gives the new number of digits. */
static inline int
multiply_add(digit digits[MOST_DIGITS], int used, uint32_t factor, uint64_t carry)
{
    for (int i = 0; i < used; i++) {
        carry += (uint64_t)digits[i] * factor;
        digits[i] = (digit)(carry & PyLong_MASK);
        carry >>= PyLong_SHIFT;
    }
    while (carry != 0) {
        assert(used < MOST_DIGITS);
        digits[used++] = (digit)(carry & PyLong_MASK);
        carry >>= PyLong_SHIFT;
    }
    return used;
}

PyObject *
bigint_parse(const char *text, int length, bool negative)
{
    digit digits[MOST_DIGITS];
    int first = length % CHUNK_DIGITS;
    uint32_t chunk = 0;

    assert(length > 0 && length <= BIGINT_DIGITS);
    for (int i = 0; i < first; i++) {
        chunk = chunk * 10 + (uint32_t)(text[i] - '0');
    }
    int used = multiply_add(digits, 0, CHUNK, chunk);
    for (int at = first; at < length; at += CHUNK_DIGITS) {
        used = multiply_add(digits, used, CHUNK, get_chunk(text + at));
    }
    return long_from_digits(digits, used, negative);
}
