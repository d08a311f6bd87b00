/* Text from UTF-8: CPython's decoder does it, except for the two kinds of text that are most of
   all: what is all ASCII, and a few words.

   CPython's decoder begins with a str for ASCII, makes another one where it meets a character
   that is none, and cuts that to size at the end. For a few words this is most of its work: lists
   of them are read in half to two thirds of its time. From some sixty bytes on it is the faster
   one, except for ASCII, of which a list of short texts takes three quarters of its time. (gcc 12,
   CPython 3.9, 3.11, 3.13.) */
#include "values/text.h"

#include <string.h>

enum { SHORT_BYTES = 48, LARGE_BYTES = 2048 };
#define HIGH UINT64_C(0x8080808080808080) /* the bits that no ASCII has */

/* In whatever order: as wire_get_word has them, gcc would not make one load of them here. */
static inline uint64_t
word_at(const char *data)
{
    uint64_t word;

    memcpy(&word, data, sizeof word);
    return word;
}

static inline bool
is_ascii(const char *data, Py_ssize_t size)
{
    uint64_t rest = 0;

    for (; size >= 32; data += 32, size -= 32) {
        /* Not an array of words: gcc would store them only to load them again. */
        uint64_t first = word_at(data) | word_at(data + 8);
        uint64_t second = word_at(data + 16) | word_at(data + 24);
        if ((first | second) & HIGH) {
            return false;
        }
    }
    for (; size >= 8; data += 8, size -= 8) {
        if (word_at(data) & HIGH) {
            return false;
        }
    }
    memcpy(&rest, data, (size_t)size);
    return (rest & HIGH) == 0;
}

/* The character of several bytes of which the first was read; the others, from `*at` on, are read
   now. 0: it is none. */
static inline Py_UCS4
decode_rest(Py_UCS4 first, const unsigned char **at, const unsigned char *end)
{
    static const Py_UCS4 least[] = {0, 0x80, 0x800, 0x10000}; /* by the number of further bytes */
    int more = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
    Py_UCS4 character = first & (0x3f >> more);

    if (first < 0xc0 || first > 0xf7 || end - *at < more) {
        return 0;
    }
    for (int i = 0; i < more; i++) {
        Py_UCS4 byte = *(*at)++;
        if ((byte & 0xc0) != 0x80) {
            return 0;
        }
        character = character << 6 | (byte & 0x3f);
    }
    bool valid = character >= least[more] && character <= 0x10ffff;
    return valid && !Py_UNICODE_IS_SURROGATE(character) ? character : 0;
}

/* How many characters there are, put to `to`; 0: it is not UTF-8. */
static Py_ssize_t
decode_short(const char *data, Py_ssize_t size, Py_UCS4 to[SHORT_BYTES])
{
    const unsigned char *at = (const unsigned char *)data;
    const unsigned char *end = at + size;
    Py_ssize_t count = 0;

    while (at < end) {
        Py_UCS4 character = *at++;
        if (character >= 0x80 && (character = decode_rest(character, &at, end)) == 0) {
            return 0;
        }
        to[count++] = character;
    }
    return count;
}

/* 32 bytes; whether they are ASCII. */
static inline bool
copy_piece(char *to, const char *from)
{
    uint64_t first = word_at(from), second = word_at(from + 8);
    uint64_t third = word_at(from + 16), fourth = word_at(from + 24);

    memcpy(to, &first, 8);
    memcpy(to + 8, &second, 8);
    memcpy(to + 16, &third, 8);
    memcpy(to + 24, &fourth, 8);
    return ((first | second | third | fourth) & HIGH) == 0;
}

/* At least 32 bytes; whether all are ASCII. From the end on: the allocator of builds without the
   GIL often puts `to` just after `from` modulo 4 KiB, where a copy that goes upwards waits at each
   load for the last store (a seventh of the speed). */
static bool
copy_ascii(char *to, const char *from, Py_ssize_t size)
{
    while (size >= 32) {
        size -= 32;
        if (!copy_piece(to + size, from + size)) {
            return false;
        }
    }
    return copy_piece(to, from);
}

static PyObject *
decode_large(const char *data, Py_ssize_t size)
{
    if ((word_at(data) & HIGH) == 0) {
        PyObject *text = PyUnicode_New(size, 127);
        if (text == NULL || copy_ascii(PyUnicode_DATA(text), data, size)) {
            return text;
        }
        Py_DECREF(text);
    }
    return PyUnicode_DecodeUTF8(data, size, NULL);
}

PyObject *
text_decode(const char *data, Py_ssize_t size)
{
    if (size >= LARGE_BYTES) {
        return decode_large(data, size);
    }
    if (size > 1 && is_ascii(data, size)) { /* CPython shares the texts of one character */
        PyObject *text = PyUnicode_New(size, 127);
        if (text != NULL) {
            /* gcc would make a rep movs, slow to begin, of a memcpy whose size has a bound. */
            memmove(PyUnicode_DATA(text), data, (size_t)size);
        }
        return text;
    }
    if (size <= SHORT_BYTES) {
        Py_UCS4 characters[SHORT_BYTES];
        Py_ssize_t count = decode_short(data, size, characters);
        if (count > 0) {
            return PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, characters, count);
        }
    }
    return PyUnicode_DecodeUTF8(data, size, NULL);
}
