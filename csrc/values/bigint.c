/* Integers beyond 32 bits to decimal and back: those of up to 120 bits here, by arithmetic of 128
   bits, larger ones by CPython. How it gives and takes its digits is said in pycompat.h. */
#include "values/bigint.h"

#include "wire.h"

enum {
    CHUNK_DIGITS = 9,
    CHUNK = 1000000000,       /* 10 ** CHUNK_DIGITS */
    EIGHT_DIGITS = 100000000, /* 10 ** 8 */
};

#if defined(__SIZEOF_INT128__) && PyLong_SHIFT == 30
#define WITH_INT128
#endif

/* ---- to decimal ---- */

/* 00 to 99, two characters each. */
static const char PAIRS[] = "0001020304050607080910111213141516171819"
                            "2021222324252627282930313233343536373839"
                            "4041424344454647484950515253545556575859"
                            "6061626364656667686970717273747576777879"
                            "8081828384858687888990919293949596979899";

static inline void
put_pair(char *to, uint64_t number)
{
    memcpy(to, PAIRS + 2 * number, 2);
}

/* Exactly nine digits: the chunk / 10 ** 8 as a fixed-point number, rounded up by less than its
   last digit is worth; each multiplication by 100 lifts the next two digits before the point. */
static inline char *
put_chunk(char *to, uint32_t chunk)
{
    const int point = 57;
    const uint64_t behind_point = (UINT64_C(1) << point) - 1;
    uint64_t number = chunk * ((UINT64_C(1) << point) / 100000000 + 1);

    to[0] = (char)('0' + (number >> point));
    number = (number & behind_point) * 100;
    put_pair(to + 1, number >> point);
    number = (number & behind_point) * 100;
    put_pair(to + 3, number >> point);
    number = (number & behind_point) * 100;
    put_pair(to + 5, number >> point);
    number = (number & behind_point) * 100;
    put_pair(to + 7, number >> point);
    return to + CHUNK_DIGITS;
}

static inline void
put_four(char *to, uint64_t number)
{
    put_pair(to, number / 100);
    put_pair(to + 2, number % 100);
}

/* A number without leading zeros; gives the end. */
static char *
put_first(char *to, uint64_t number)
{
    if (number >= 10000) {
        to = put_first(to, number / 10000);
        put_four(to, number % 10000);
        return to + 4;
    }
    if (number >= 1000) {
        put_four(to, number);
        return to + 4;
    }
    if (number >= 100) {
        *to++ = (char)('0' + number / 100);
        number %= 100;
    } else if (number < 10) {
        *to = (char)('0' + number);
        return to + 1;
    }
    put_pair(to, number);
    return to + 2;
}

#ifdef WITH_INT128
enum { MOST_DIGITS = 4 };

/* 18 decimal digits are split off at once. */
static char *
format_few(const digit *digits, Py_ssize_t count, char *to)
{
    const uint64_t split = UINT64_C(1000000000000000000);
    /* 2 ** 123 / split: multiplying gives the quotient or one less, and is open code, where the
       division of 128 bits is a function of the compiler's. */
    const uint64_t inverse = UINT64_C(0x9392ee8e921d5d07);
    uint64_t low = digits[0] | (count > 1 ? (uint64_t)digits[1] << 30 : 0);
    uint64_t high = count > 2 ? digits[2] | (count > 3 ? (uint64_t)digits[3] << 30 : 0) : 0;
    uint64_t upper = (uint64_t)((unsigned __int128)(high << 1 | low >> 59) * inverse >> 64);
    uint64_t lower = (high << 60 | low) - upper * split;

    if (lower >= split) {
        upper++;
        lower -= split;
    }
    if (upper == 0) {
        return put_first(to, lower);
    }
    to = put_first(to, upper);
    to = put_chunk(to, (uint32_t)(lower / CHUNK));
    return put_chunk(to, (uint32_t)(lower % CHUNK));
}
#else
enum { MOST_DIGITS = 60 / PyLong_SHIFT };

static char *
format_few(const digit *digits, Py_ssize_t count, char *to)
{
    uint64_t number = 0;

    while (count > 0) {
        number = number << PyLong_SHIFT | digits[--count];
    }
    return put_first(to, number);
}
#endif

static NEVER_INLINE int
format_many(PyObject *value, char text[BIGINT_TEXT])
{
    PyObject *digits = PyLong_Type.tp_repr(value);
    if (digits == NULL) {
        return -1;
    }
    int length = (int)PyUnicode_GET_LENGTH(digits);
    memcpy(text, PyUnicode_DATA(digits), (size_t)length);
    Py_DECREF(digits);
    return length;
}

int
bigint_format(PyObject *value, char text[BIGINT_TEXT])
{
    IntDigits all;
    int length = 0;

    int_digits(value, &all);
    Py_ssize_t count = all.count;
    if (count <= MOST_DIGITS) {
        text[0] = '-';
        length = (int)(format_few(all.digits, count, text + all.negative) - text);
    }
    int_release(&all);
    if (length == 0 && count <= BIGINT_BITS / PyLong_SHIFT) {
        length = format_many(value, text);
    }
    return length;
}

/* ---- from decimal ---- */

/* The number of eight digits, given as a word with the first in its lowest byte: each product adds
   neighbours, the first of them as much more as it is worth. */
static inline uint32_t
number_of_eight(uint64_t digits)
{
    digits = (digits & UINT64_C(0x0f0f0f0f0f0f0f0f)) * (1 + (10 << 8)) >> 8;
    digits = (digits & UINT64_C(0x00ff00ff00ff00ff)) * (1 + (100 << 16)) >> 16;
    return (uint32_t)((digits & UINT64_C(0x0000ffff0000ffff)) * (1 + (UINT64_C(10000) << 32)) >>
                      32);
}

static inline uint32_t
get_eight(const char *text)
{
    return number_of_eight(wire_get_word(text));
}

/* The first 1 to 8 digits of `length`: as many as leave a multiple of eight. */
static inline uint32_t
get_first(const char *text, int count, int length)
{
    if (length >= 8) {
        /* The shift puts zeros before them and drops the others. */
        return number_of_eight(wire_get_word(text) << 8 * (8 - count));
    }
    uint32_t number = 0;
    for (int i = 0; i < count; i++) {
        number = number * 10 + (uint32_t)(text[i] - '0');
    }
    return number;
}

static inline int
count_of_first(int length)
{
    return ((length - 1) & 7) + 1;
}

#ifdef WITH_INT128
enum { FEW_DIGITS = 32 };

static PyObject *
parse_few(const char *text, int length, bool negative)
{
    int first = count_of_first(length);
    uint64_t upper = get_first(text, first, length);

    text += first;
    if (length > 24) {
        upper = upper * EIGHT_DIGITS + get_eight(text);
        text += 8;
    }
    unsigned __int128 number = upper;
    if (length > 16) {
        const uint64_t sixteen_digits = (uint64_t)EIGHT_DIGITS * EIGHT_DIGITS;
        uint64_t lower = (uint64_t)get_eight(text) * EIGHT_DIGITS + get_eight(text + 8);
        number = number * sixteen_digits + lower;
    } else if (length > 8) {
        number = upper * EIGHT_DIGITS + get_eight(text);
    }
    uint64_t low = (uint64_t)number & ((UINT64_C(1) << 60) - 1);
    uint64_t high = (uint64_t)(number >> 60);
    if (high == 0 && low <= PyLong_MASK) {
        return PyLong_FromLong(negative ? -(long)low : (long)low);
    }
    int count = high == 0 ? 2 : high <= PyLong_MASK ? 3 : 4;
    digit *digits;
    IntWriter *writer = intwriter_new(count, negative, &digits);
    if (writer == NULL) {
        return NULL;
    }
    digits[0] = (digit)low & PyLong_MASK;
    digits[1] = (digit)(low >> PyLong_SHIFT);
    if (count > 2) {
        digits[2] = (digit)high & PyLong_MASK;
    }
    if (count > 3) {
        digits[3] = (digit)(high >> PyLong_SHIFT);
    }
    return intwriter_finish(writer);
}
#else
enum { FEW_DIGITS = 16 };

static PyObject *
parse_few(const char *text, int length, bool negative)
{
    int first = count_of_first(length);
    int64_t number = get_first(text, first, length);

    if (length > 8) {
        number = number * EIGHT_DIGITS + get_eight(text + first);
    }
    return PyLong_FromLongLong(negative ? -number : number);
}
#endif

static NEVER_INLINE PyObject *
parse_many(const char *text, int length)
{
    char copy[BIGINT_TEXT + 1];

    memcpy(copy, text, (size_t)length);
    copy[length] = '\0';
    return PyLong_FromString(copy, NULL, 10);
}

PyObject *
bigint_parse(const char *text, int length, bool negative)
{
    assert(length > 0 && length <= BIGINT_DIGITS);
    if (length <= FEW_DIGITS) {
        return parse_few(text, length, negative);
    }
    return parse_many(text - negative, length + negative);
}
