/* Text from UTF-8 that is not all ASCII: one scan finds how many characters there are and how wide
   the widest is, one pass decodes into the str of just that size. Beside CPython's decoder, which
   goes by single characters, it asks few questions of the text whose answers processors would have
   to guess. That needs SSE2; elsewhere CPython's was the faster. */
#include "values/text.h"

#ifndef __SSE2__
PyObject *
utf8_decode(const char *data, Py_ssize_t size)
{
    return PyUnicode_DecodeUTF8(data, size, NULL);
}
#else
#include <emmintrin.h>

/* Compilers hesitate to copy a function three times, which is the point here. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

typedef struct {
    Py_ssize_t characters;
    Py_UCS4 widest; /* the greatest character of its width */
} Shape;

static inline bool
is_continuation(unsigned char byte)
{
    return (signed char)byte < -64; /* 0x80 to 0xbf */
}

/* The shape that bytes have if they are UTF-8. */
static Shape
shape_of(const unsigned char *at, const unsigned char *end)
{
    enum { STRIDE = 240 }; /* what a byte can count, and a constant: compilers make vectors of it */
    Py_ssize_t characters = 0;
    unsigned char greatest = 0;

    for (; end - at >= STRIDE; at += STRIDE) {
        unsigned char starts = 0;
        for (int i = 0; i < STRIDE; i++) {
            starts += !is_continuation(at[i]);
            greatest = Py_MAX(greatest, at[i]);
        }
        characters += starts;
    }
    for (; at < end; at++) {
        characters += !is_continuation(*at);
        greatest = Py_MAX(greatest, *at);
    }
    return (Shape){characters, greatest >= 0xf0 ? 0x10ffff : greatest >= 0xc4 ? 0xffff : 0xff};
}

/* The character of two to four bytes that starts at `*at` with one of 0xc0 and more; `*at` is moved
   behind it. 0: it is none. What the bytes have beside the character's bits is subtracted from the
   sum of all. */
static ALWAYS_INLINE Py_UCS4
decode_character(const unsigned char **at, const unsigned char *end)
{
    const unsigned char *from = *at;
    Py_UCS4 first = from[0];
    Py_UCS4 character;

    if (first < 0xe0) {
        if (end - from < 2 || !is_continuation(from[1])) {
            return 0;
        }
        *at = from + 2;
        character = (first << 6) + from[1] - ((0xc0 << 6) + 0x80);
        return character < 0x80 ? 0 : character;
    }
    if (first < 0xf0) {
        if (end - from < 3 || !is_continuation(from[1]) || !is_continuation(from[2])) {
            return 0;
        }
        *at = from + 3;
        character = (first << 12) + (from[1] << 6) + from[2] - ((0xe0 << 12) + (0x80 << 6) + 0x80);
        return character < 0x800 || Py_UNICODE_IS_SURROGATE(character) ? 0 : character;
    }
    if (end - from < 4 || !is_continuation(from[1]) || !is_continuation(from[2]) ||
        !is_continuation(from[3])) {
        return 0;
    }
    *at = from + 4;
    character = (first << 18) + (from[1] << 12) + (from[2] << 6) + from[3] -
                ((0xf0 << 18) + (0x80 << 12) + (0x80 << 6) + 0x80);
    return character < 0x10000 || character > 0x10ffff ? 0 : character;
}

enum {
    BLOCK = 64,
    /* How much there must be, of bytes and of room for characters: the last character may end up
       to three bytes behind the block, and eight are copied at once. */
    BLOCK_NEEDS = BLOCK + 3 + 8,
};

/* Of the block's bytes, the first lowest: which ones start a character of several bytes. */
static inline uint64_t
starts_in(const unsigned char *block)
{
    uint64_t starts = 0;
    const __m128i least = _mm_set1_epi8((char)0xc0);

    for (int i = 0; i < BLOCK; i += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(block + i));
        __m128i found = _mm_cmpeq_epi8(_mm_min_epu8(bytes, least), least);
        starts |= (uint64_t)(unsigned)_mm_movemask_epi8(found) << i;
    }
    return starts;
}

/* Eight ASCII bytes as characters from `i` on. */
static ALWAYS_INLINE void
put_eight(int kind, void *text, Py_ssize_t i, const unsigned char *from)
{
    __m128i zeros = _mm_setzero_si128();
    __m128i bytes = _mm_loadl_epi64((const __m128i *)from);
    __m128i *to = (__m128i *)((char *)text + i * kind);

    if (kind == PyUnicode_1BYTE_KIND) {
        _mm_storel_epi64(to, bytes);
    } else if (kind == PyUnicode_2BYTE_KIND) {
        _mm_storeu_si128(to, _mm_unpacklo_epi8(bytes, zeros));
    } else {
        bytes = _mm_unpacklo_epi8(bytes, zeros);
        _mm_storeu_si128(to, _mm_unpacklo_epi16(bytes, zeros));
        _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(bytes, zeros));
    }
}

/* The same of `count` and up to seven more. */
static ALWAYS_INLINE void
put_eights(int kind, void *text, Py_ssize_t i, const unsigned char *from, Py_ssize_t count)
{
    for (Py_ssize_t k = 0; k < count; k += 8) {
        put_eight(kind, text, i + k, from + k);
    }
}

/* Decode from `*at` on, which stands in the block or just behind it, all characters that start in
   the block. Those of one byte between others are copied by eights, however few they are. A
   continuation byte that belongs to no character is copied like them. */
static ALWAYS_INLINE bool
decode_block(const unsigned char *block, const unsigned char **at, int kind, void *text,
             Py_ssize_t *index)
{
    const unsigned char *done = *at;
    Py_ssize_t i = *index;
    uint64_t starts = starts_in(block);

    while (starts != 0) {
        Py_ssize_t single = block + (size_t)__builtin_ctzll(starts) - done;
        put_eight(kind, text, i, done);
        put_eights(kind, text, i + 8, done + 8, single - 8);
        done += single;
        i += single;
        do {
            Py_UCS4 character = decode_character(&done, done + 4);
            if (character == 0) {
                return false;
            }
            PyUnicode_WRITE(kind, text, i, character);
            i++;
            starts &= starts - 1;
        } while (starts != 0 && *done >= 0xe0); /* those of three bytes are seldom alone */
    }
    Py_ssize_t single = Py_MAX(block + BLOCK - done, 0);
    put_eights(kind, text, i, done, single);
    *at = done + single;
    *index = i + single;
    return true;
}

/* Decode all into `text`, an array of `kind` with so many characters as bytes there are that
   continue none; false where it is not UTF-8. That many are written only if each byte that
   continues a character has been read as part of one. */
static ALWAYS_INLINE bool
decode_all(const unsigned char *at, const unsigned char *end, int kind, void *text,
           Py_ssize_t characters)
{
    Py_ssize_t i = 0;

    for (const unsigned char *block = at;
         end - block >= BLOCK_NEEDS && characters - i >= BLOCK_NEEDS; block += BLOCK) {
        if (!decode_block(block, &at, kind, text, &i)) {
            return false;
        }
    }
    while (at < end && i < characters) {
        Py_UCS4 character = *at;
        if (character < 0x80) {
            at++;
        } else if (character < 0xc0 || (character = decode_character(&at, end)) == 0) {
            return false;
        }
        PyUnicode_WRITE(kind, text, i, character);
        i++;
    }
    return at == end && i == characters;
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
        valid = decode_all(start, end, PyUnicode_1BYTE_KIND, PyUnicode_1BYTE_DATA(text),
                           shape.characters);
    } else if (shape.widest == 0xffff) {
        valid = decode_all(start, end, PyUnicode_2BYTE_KIND, PyUnicode_2BYTE_DATA(text),
                           shape.characters);
    } else {
        valid = decode_all(start, end, PyUnicode_4BYTE_KIND, PyUnicode_4BYTE_DATA(text),
                           shape.characters);
    }
    if (!valid) {
        Py_DECREF(text);
        /* Knows best what to say about it. */
        return PyUnicode_DecodeUTF8(data, size, NULL);
    }
    return text;
}
#endif
