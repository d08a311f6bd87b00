/* Text from UTF-8 that is not all ASCII: one scan finds how many characters there are and how wide
   the widest is, one pass decodes into the str of just that size. */
#include "core.h"

/* Compilers hesitate to copy a function three times, which is the point here. */
#ifdef __GNUC__
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE inline
#endif

typedef struct {
    Py_ssize_t characters;
    Py_UCS4 widest; /* the greatest character of its width */
} Shape;

static inline uint64_t
word_at(const unsigned char *at)
{
    uint64_t word;

    memcpy(&word, at, sizeof word);
    return word;
}

/* The shape that bytes have if they are UTF-8; if they are not, decoding into it fails without
   writing beyond it. */
static Shape
shape_of(const unsigned char *at, const unsigned char *end)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    const uint64_t sevens = ones << 7;
    uint64_t wide = 0;   /* bit 7 of a byte: it starts a character beyond Latin-1 */
    uint64_t widest = 0; /* ... beyond 16 bits */
    Py_ssize_t characters = end - at;

    while (at < end) {
        uint64_t word = 0;
        if (end - at >= 8) {
            word = word_at(at);
            at += 8;
        } else {
            memcpy(&word, at, (size_t)(end - at));
            at = end;
        }
        /* Shifted by n, bit 7 - n of each byte stands where bit 7 is. */
        uint64_t starts = word & word << 1;
        uint64_t long_starts = starts & word << 2;
        if (wide == 0) {
            wide = (long_starts | (starts & (word << 3 | word << 4 | word << 5))) & sevens;
        }
        widest |= long_starts & word << 3;
        uint64_t continuations = (word & ~(word << 1)) >> 7 & ones;
        characters -= (Py_ssize_t)(continuations * ones >> 56);
    }
    return (Shape){characters, widest & sevens ? 0x10ffff : wide ? 0xffff : 0xff};
}

static inline bool
is_continuation(unsigned char byte)
{
    return (byte & 0xc0) == 0x80;
}

/* The character of two to four bytes that starts at `*at`, which is moved behind it; 0: it is
   none. */
static ALWAYS_INLINE Py_UCS4
decode_character(const unsigned char **at, const unsigned char *end)
{
    const unsigned char *from = *at;
    Py_UCS4 first = from[0];

    if (first < 0xe0) {
        if (first < 0xc2 || end - from < 2 || !is_continuation(from[1])) {
            return 0;
        }
        *at = from + 2;
        return (first & 0x1f) << 6 | (from[1] & 0x3f);
    }
    if (first < 0xf0) {
        if (end - from < 3 || !is_continuation(from[1]) || !is_continuation(from[2])) {
            return 0;
        }
        *at = from + 3;
        Py_UCS4 character = (first & 0x0f) << 12 | (from[1] & 0x3f) << 6 | (from[2] & 0x3f);
        return character < 0x800 || Py_UNICODE_IS_SURROGATE(character) ? 0 : character;
    }
    if (end - from < 4 || !is_continuation(from[1]) || !is_continuation(from[2]) ||
        !is_continuation(from[3])) {
        return 0;
    }
    *at = from + 4;
    Py_UCS4 character =
        (first & 0x0f) << 18 | (from[1] & 0x3f) << 12 | (from[2] & 0x3f) << 6 | (from[3] & 0x3f);
    return character < 0x10000 || character > 0x10ffff ? 0 : character;
}

/* Decode all into `text`, an array of `kind`; false where it is not UTF-8. */
static ALWAYS_INLINE bool
decode_all(const unsigned char *at, const unsigned char *end, int kind, void *text)
{
    const uint64_t high = UINT64_C(0x8080808080808080);
    Py_ssize_t i = 0;

    for (;;) {
        for (; end - at >= 8 && !(word_at(at) & high); at += 8, i += 8) {
            for (int k = 0; k < 8; k++) {
                PyUnicode_WRITE(kind, text, i + k, at[k]);
            }
        }
        for (; at < end && *at < 0x80; at++, i++) {
            PyUnicode_WRITE(kind, text, i, *at);
        }
        if (at == end) {
            return true;
        }
        Py_UCS4 character = decode_character(&at, end);
        if (character == 0) {
            return false;
        }
        PyUnicode_WRITE(kind, text, i, character);
        i++;
    }
}

PyObject *
utf8_decode(const char *data, Py_ssize_t size)
{
    const unsigned char *start = (const unsigned char *)data;
    const unsigned char *end = start + size;
    Shape shape = shape_of(start, end);
    PyObject *text = PyUnicode_New(shape.characters, shape.widest);
    bool valid;

    if (text == NULL) {
        return NULL;
    }
    /* Called with constants, so that each kind gets a loop of its own. */
    if (shape.widest == 0xff) {
        valid = decode_all(start, end, PyUnicode_1BYTE_KIND, PyUnicode_1BYTE_DATA(text));
    } else if (shape.widest == 0xffff) {
        valid = decode_all(start, end, PyUnicode_2BYTE_KIND, PyUnicode_2BYTE_DATA(text));
    } else {
        valid = decode_all(start, end, PyUnicode_4BYTE_KIND, PyUnicode_4BYTE_DATA(text));
    }
    if (!valid) {
        Py_DECREF(text);
        /* Knows best what to say about it. */
        return PyUnicode_DecodeUTF8(data, size, NULL);
    }
    return text;
}
