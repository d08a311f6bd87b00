/* The value reader: a stack machine over bytes in memory or over a stream.

   The stack is an array of slots, so that depth costs memory and not C stack. Two things a slot can
   be are not yet objects. A list is made without elements and grows as they arrive in order; what
   is still to come is counted in its slot, so memory follows the input and not what the input
   claims. And an INT that is just the index of the element that comes next stays a number, because
   SETITEM is all that ever looks at it.

   Python code runs in between (a stream's read, a factory's new, a finalizer, the hash of a
   channel), but nobody else has the stack, and what is in a slot is owned by it until it is taken
   out. Lists and dicts in the making can be found by code that asks the garbage collector for all
   there are, so what could do harm is asked of them, not remembered.

   The wire is not trusted: every size is checked against what is there before it is used, and all
   that can be wrong with the bytes ends as LoadError, or as EOFError where they end early. */
#include "values/load.h"

#include "values/bigint.h"
#include "values/text.h"
#include "wire.h"

enum { INLINE_SLOTS = 64 };

/* The shortest element of a list: INT with its index, one opcode, SETITEM. */
enum { ELEMENT_BYTES = 7 };

/* An operand from a stream is read in pieces of no more than this, or than what came so far. */
enum { STREAM_PIECE = 64 * 1024 };

typedef struct {
    PyObject *object; /* owned; NULL: the int `number`, an index not made into an object */
    /* With an object that is a list: its elements still to come. Otherwise 0. */
    Py_ssize_t number;
} Slot;

typedef struct {
    CodecObject *codec;
    const LoadOptions *options;
    /* What can be read without asking the stream. */
    const char *pos;
    const char *end;
    const char *data;    /* memory only: its start, to tell positions */
    PyObject *read;      /* stream only: its bound read method */
    PyObject *piece;     /* stream only: the bytes object the last operand is in */
    Py_ssize_t consumed; /* stream only: to tell positions */
    /* Elements that lists may still allocate ahead, and claim without assigning. */
    Py_ssize_t reservable;
    Py_ssize_t unassignable;
#ifdef Py_GIL_DISABLED
    KeyCache *key_cache; /* this thread's own until the value is read; NULL: not yet needed */
#endif
    Slot *stack;
    Slot *top; /* the first free slot */
    Slot *limit;
    Slot inline_slots[INLINE_SLOTS];
} Reader;

/* ---- errors ---- */

static Py_ssize_t
position(const Reader *reader)
{
    return reader->read != NULL ? reader->consumed : reader->pos - reader->data;
}

/* Tell the error how many of the value's first bytes were read when it was found. */
static int
note_position(Reader *reader, PyObject *error)
{
    PyObject *number = PyLong_FromSsize_t(position(reader));
    if (number == NULL) {
        return -1;
    }
    PyObject *none = PyObject_CallMethodOneArg(error, reader->codec->str_found_within, number);
    Py_DECREF(number);
    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}

/* LoadError with what is wrong and where; always NULL. */
static void *
refuse(Reader *reader, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    PyObject *text = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    PyObject *error = text == NULL ? NULL : PyObject_CallOneArg(reader->codec->load_error, text);
    Py_XDECREF(text);
    if (error != NULL && note_position(reader, error) == 0) {
        PyErr_SetObject(reader->codec->load_error, error);
    }
    Py_XDECREF(error);
    return NULL;
}

/* The exception that is set came from a value that breaks Python's rules: make it a LoadError. */
static void
refuse_caught(Reader *reader, const char *what)
{
    PyObject *type;
    PyObject *value;
    PyObject *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    refuse(reader, "%s: %S", what, value == NULL ? Py_None : value);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

void
load_wrong_version(CodecObject *codec, const char *found)
{
    PyObject *bytes = PyBytes_FromStringAndSize(found, 1);
    if (bytes != NULL) {
        PyErr_Format(codec->load_error, "wrong dumpformat version %R", bytes);
        Py_DECREF(bytes);
    }
}

/* ---- input ---- */

/* At most `count` bytes from the stream, as an owned bytes object that is not empty. */
static PyObject *
stream_read(Reader *reader, Py_ssize_t count)
{
    PyObject *wanted = PyLong_FromSsize_t(count);
    if (wanted == NULL) {
        return NULL;
    }
    PyObject *piece = PyObject_CallOneArg(reader->read, wanted);
    Py_DECREF(wanted);
    if (piece != NULL && !PyBytes_CheckExact(piece)) {
        if (PyUnicode_Check(piece) || !PyObject_CheckBuffer(piece)) {
            PyErr_Format(PyExc_TypeError, "the stream's read gave %R, not bytes",
                         (PyObject *)Py_TYPE(piece));
            Py_CLEAR(piece);
        } else {
            Py_SETREF(piece, PyBytes_FromObject(piece));
        }
    }
    if (piece != NULL && PyBytes_GET_SIZE(piece) > count) {
        PyErr_Format(PyExc_ValueError, "the stream's read gave %zd bytes, %zd were asked for",
                     PyBytes_GET_SIZE(piece), count);
        Py_CLEAR(piece);
    }
    if (piece != NULL && PyBytes_GET_SIZE(piece) == 0) {
        PyErr_Format(PyExc_EOFError, "the value ends early, after %zd bytes", reader->consumed);
        Py_CLEAR(piece);
    }
    if (piece != NULL) {
        reader->consumed += PyBytes_GET_SIZE(piece);
    }
    return piece;
}

/* Exactly `count` > 0 bytes from the stream, however it cuts them, as an owned bytes object. */
static PyObject *
stream_read_all(Reader *reader, Py_ssize_t count)
{
    PyObject *piece = stream_read(reader, Py_MIN(count, STREAM_PIECE));
    if (piece == NULL || PyBytes_GET_SIZE(piece) == count) {
        return piece;
    }
    /* Into an object of our own: what the stream gave may be known elsewhere, as single bytes are.
     */
    Py_ssize_t capacity = Py_MIN(count, STREAM_PIECE);
    Py_ssize_t got = 0;
    PyObject *whole = PyBytes_FromStringAndSize(NULL, capacity);

    while (whole != NULL && piece != NULL) {
        Py_ssize_t more = PyBytes_GET_SIZE(piece);
        if (capacity - got < more) {
            capacity = Py_MIN(count, Py_MAX(got * 2, got + more));
            if (_PyBytes_Resize(&whole, capacity) < 0) {
                break;
            }
        }
        memcpy(PyBytes_AS_STRING(whole) + got, PyBytes_AS_STRING(piece), (size_t)more);
        got += more;
        Py_DECREF(piece);
        if (got == count) {
            return whole;
        }
        piece = stream_read(reader, Py_MIN(count - got, Py_MAX(got, STREAM_PIECE)));
    }
    Py_XDECREF(piece);
    Py_XDECREF(whole);
    return NULL;
}

static NEVER_INLINE const char *
take_slowly(Reader *reader, Py_ssize_t count)
{
    if (reader->read == NULL) {
        PyErr_Format(PyExc_EOFError,
                     "the value ends early: expected %zd bytes at position %zd, got %zd", count,
                     position(reader), reader->end - reader->pos);
        return NULL;
    }
    PyObject *piece = stream_read_all(reader, count);
    if (piece == NULL) {
        return NULL;
    }
    Py_XSETREF(reader->piece, piece);
    return PyBytes_AS_STRING(piece);
}

/* The next `count` bytes, good until the next call. */
static inline const char *
take(Reader *reader, Py_ssize_t count)
{
    if (reader->end - reader->pos < count) {
        return take_slowly(reader, count);
    }
    const char *at = reader->pos;
    reader->pos += count;
    return at;
}

static inline int
take_int4(Reader *reader, int32_t *number)
{
    const char *at = take(reader, 4);
    if (at == NULL) {
        return -1;
    }
    *number = wire_get_int4(at);
    return 0;
}

static inline int
take_count(Reader *reader, int32_t *count)
{
    if (take_int4(reader, count) < 0) {
        return -1;
    }
    if (*count < 0) {
        refuse(reader, "a size of %d", (int)*count);
        return -1;
    }
    return 0;
}

/* An operand that begins with its size. */
static inline const char *
take_sized(Reader *reader, int32_t *size)
{
    if (take_count(reader, size) < 0) {
        return NULL;
    }
    return *size == 0 ? "" : take(reader, *size);
}

/* ---- the stack ---- */

static int
stack_grow(Reader *reader)
{
    size_t used = (size_t)(reader->top - reader->stack);
    size_t wanted = used * 2;
    Slot *stack = NULL;

    if (wanted <= PY_SSIZE_T_MAX / sizeof(Slot)) {
        if (reader->stack != reader->inline_slots) {
            stack = PyMem_Realloc(reader->stack, wanted * sizeof(Slot));
        } else {
            stack = PyMem_Malloc(wanted * sizeof(Slot));
            if (stack != NULL) {
                memcpy(stack, reader->stack, used * sizeof(Slot));
            }
        }
    }
    if (stack == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    reader->stack = stack;
    reader->top = stack + used;
    reader->limit = stack + wanted;
    return 0;
}

/* Put an object (stolen, also on failure) or, with NULL, an index on the stack. */
static inline int
push(Reader *reader, PyObject *object, Py_ssize_t number)
{
    if (reader->top == reader->limit && stack_grow(reader) < 0) {
        Py_XDECREF(object);
        return -1;
    }
    reader->top->object = object;
    reader->top->number = number;
    reader->top++;
    return 0;
}

static inline int
push_new(Reader *reader, PyObject *object)
{
    return object == NULL ? -1 : push(reader, object, 0);
}

static void
drop(Reader *reader, Slot *down_to)
{
    while (reader->top > down_to) {
        reader->top--;
        Py_XDECREF(reader->top->object);
    }
}

/* Nothing but the garbage collector knows a list in the making. With a GIL that is harmless: what
   it is asked for is told between two steps of ours. Without, it must not know it either: another
   thread could change the list in the middle of one. */
static inline void
hide(PyObject *list)
{
#ifdef Py_GIL_DISABLED
    PyObject_GC_UnTrack(list);
#else
    (void)list;
#endif
}

static inline void
show(PyObject *list)
{
#ifdef Py_GIL_DISABLED
    PyObject_GC_Track(list);
#else
    (void)list;
#endif
}

/* The list in the slot gets the Nones it was claimed to have. */
static int
finish_list(Reader *reader, Slot *slot)
{
    Py_ssize_t missing = slot->number;

    if (missing > reader->unassignable) {
        refuse(reader, "a list with %zd elements that are never assigned", missing);
        return -1;
    }
    reader->unassignable -= missing;
    slot->number = 0;
    for (; missing > 0; missing--) {
        if (PyList_Append(slot->object, Py_None) < 0) {
            return -1;
        }
    }
    show(slot->object);
    return 0;
}

/* Turn what is in the slot into the object it represents. */
static int
settle_slowly(Reader *reader, Slot *slot)
{
    if (slot->object != NULL) {
        return finish_list(reader, slot);
    }
    slot->object = PyLong_FromSsize_t(slot->number);
    slot->number = 0;
    return slot->object == NULL ? -1 : 0;
}

static inline int
settle(Reader *reader, Slot *slot)
{
    return slot->object != NULL && slot->number == 0 ? 0 : settle_slowly(reader, slot);
}

/* ---- scalars ---- */

static PyObject *
text_from_utf8(Reader *reader, const char *data, Py_ssize_t size)
{
    PyObject *text = text_decode(data, size);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        refuse_caught(reader, "a text that is not UTF-8");
    }
    return text;
}

/* Mixes the first and the last eight bytes: keys that differ only between them are rare. */
static inline unsigned
key_hash(const char *data, Py_ssize_t size)
{
    uint64_t first = 0;
    uint64_t last = 0;

    if (size >= 8) {
        memcpy(&first, data, 8);
        memcpy(&last, data + size - 8, 8);
    } else if (size >= 4) {
        memcpy(&first, data, 4);
        memcpy(&last, data + size - 4, 4);
    } else if (size > 0) {
        first = (unsigned char)data[0] | (uint64_t)(unsigned char)data[size / 2] << 8;
        last = (unsigned char)data[size - 1];
    }
    uint64_t mixed =
        (first ^ last << 23 ^ last >> 41 ^ (uint64_t)size) * UINT64_C(0x9e3779b97f4a7c15);
    return (unsigned)(mixed >> 32);
}

#ifdef Py_GIL_DISABLED
static NEVER_INLINE KeyCache *
take_key_cache(Reader *reader)
{
    reader->key_cache = spare_take(&reader->codec->key_caches);
    if (reader->key_cache == NULL) {
        reader->key_cache = PyMem_Calloc(1, sizeof(KeyCache));
    }
    return reader->key_cache;
}
#endif

/* NULL where memory lacks. */
static inline KeyCache *
key_cache_of(Reader *reader)
{
#ifdef Py_GIL_DISABLED
    return reader->key_cache != NULL ? reader->key_cache : take_key_cache(reader);
#else
    return &reader->codec->key_cache;
#endif
}

/* A short text that is about to become a dictionary's key: probably one that was seen before. */
static PyObject *
key_from_utf8(Reader *reader, const char *data, Py_ssize_t size)
{
    KeyCache *cache = key_cache_of(reader);
    if (cache == NULL) {
        return text_from_utf8(reader, data, size);
    }
    PyObject **place = &cache->keys[key_hash(data, size) % KEY_CACHE_SLOTS];
    PyObject *known = *place;

    if (known != NULL && PyUnicode_GET_LENGTH(known) == size &&
        memcmp(PyUnicode_DATA(known), data, (size_t)size) == 0) {
        return Py_NewRef(known);
    }
    PyObject *text = text_from_utf8(reader, data, size);
    if (text != NULL && PyUnicode_IS_COMPACT_ASCII(text)) {
        Py_INCREF(text);
        Py_XSETREF(*place, text);
    }
    return text;
}

static inline PyObject *
read_text(Reader *reader)
{
    int32_t size;
    const char *data = take_sized(reader, &size);

    return data == NULL ? NULL : text_from_utf8(reader, data, size);
}

static inline PyObject *
read_key_text(Reader *reader)
{
    int32_t size;
    const char *data = take_sized(reader, &size);

    if (data == NULL) {
        return NULL;
    }
    return size <= KEY_CACHE_LONGEST ? key_from_utf8(reader, data, size)
                                     : text_from_utf8(reader, data, size);
}

static PyObject *
read_bytes(Reader *reader)
{
    int32_t size;
    const char *data = take_sized(reader, &size);

    if (data == NULL) {
        return NULL;
    }
    if (reader->piece != NULL && PyBytes_AS_STRING(reader->piece) == data &&
        PyBytes_GET_SIZE(reader->piece) == size) {
        /* What came from the stream is the object already. */
        PyObject *bytes = reader->piece;
        reader->piece = NULL;
        return bytes;
    }
    return PyBytes_FromStringAndSize(data, size);
}

static PyObject *
read_py2_string(Reader *reader)
{
    if (!reader->options->py2str_as_py3str) {
        return read_bytes(reader);
    }
    int32_t size;
    const char *data = take_sized(reader, &size);
    return data == NULL ? NULL : PyUnicode_DecodeLatin1(data, size, NULL);
}

static PyObject *
read_float(Reader *reader)
{
    const char *at = take(reader, 8);
    return at == NULL ? NULL : PyFloat_FromDouble(wire_get_double(at));
}

static PyObject *
read_complex(Reader *reader)
{
    const char *at = take(reader, 16);
    return at == NULL ? NULL : PyComplex_FromDoubles(wire_get_double(at), wire_get_double(at + 8));
}

static NEVER_INLINE PyObject *
huge_int(Reader *reader, const char *digits, int32_t count)
{
    PyObject *convert = codec_name(reader->codec->names, "_int_from_digits");
    if (convert == NULL) {
        return NULL;
    }
    PyObject *text = PyBytes_FromStringAndSize(digits, count);
    PyObject *number = text == NULL ? NULL : PyObject_CallOneArg(convert, text);
    Py_XDECREF(text);
    Py_DECREF(convert);
    return number;
}

/* Upper halves of the bytes are not 0 where these are not all digits: one has 3 there, also when 6
   is added. */
static inline uint64_t
wrong_digits(uint64_t word)
{
    const uint64_t threes = UINT64_C(0x3030303030303030);
    const uint64_t sixes = UINT64_C(0x0606060606060606);

    return (word ^ threes) | ((word + sixes) ^ threes);
}

static inline bool
are_digits(const char *text, Py_ssize_t size)
{
    const uint64_t upper_halves = UINT64_C(0xf0f0f0f0f0f0f0f0);

    if (size >= 8) {
        const char *last = text + size - 8;
        uint64_t wrong = wrong_digits(wire_get_word(last));
        for (; text < last; text += 8) {
            wrong |= wrong_digits(wire_get_word(text));
        }
        return (wrong & upper_halves) == 0;
    }
    for (; size > 0; text++, size--) {
        if (*text < '0' || *text > '9') {
            return false;
        }
    }
    return true;
}

/* LONGINT, LONGLONG: an optional minus and at least one ASCII digit. */
static PyObject *
read_decimal(Reader *reader)
{
    int32_t size;
    const char *text = take_sized(reader, &size);

    if (text == NULL) {
        return NULL;
    }
    bool negative = size > 0 && text[0] == '-';
    const char *digits = text + negative;
    int32_t count = size - negative;
    if (count == 0) {
        return refuse(reader, "an integer without digits");
    }
    if (!are_digits(digits, count)) {
        return refuse(reader, "an integer with other bytes than digits");
    }
    return count <= BIGINT_DIGITS ? bigint_parse(digits, count, negative)
                                  : huge_int(reader, text, size);
}

static PyObject *
read_channel(Reader *reader)
{
    int32_t id;

    if (take_int4(reader, &id) < 0) {
        return NULL;
    }
    if (reader->options->channels == NULL) {
        return refuse(reader, "a channel (id %d) where nobody holds channels", (int)id);
    }
    PyObject *number = PyLong_FromLong(id);
    if (number == NULL) {
        return NULL;
    }
    PyObject *channel =
        PyObject_CallMethodOneArg(reader->options->channels, reader->codec->str_new, number);
    Py_DECREF(number);
    return channel;
}

/* ---- containers ---- */

static int
read_new_list(Reader *reader)
{
    int32_t size;

    if (take_count(reader, &size) < 0) {
        return -1;
    }
    Py_ssize_t reserved = size <= reader->reservable ? size : 0;
    PyObject *list = PyList_New(reserved);
    if (list == NULL) {
        return -1;
    }
    reader->reservable -= reserved;
    if (size > 0) {
        hide(list);
    }
    /* Keeps what is allocated: list_append fills it. */
    Py_SET_SIZE(list, 0);
    return push(reader, list, size);
}

/* Steals `element`, also on failure. */
static inline int
list_append(PyObject *list, PyObject *element)
{
    Py_ssize_t size = PyList_GET_SIZE(list);

    if (size < ((PyListObject *)list)->allocated) {
        PyList_SET_ITEM(list, size, element);
        Py_SET_SIZE(list, size + 1);
        return 0;
    }
    int result = PyList_Append(list, element);
    Py_DECREF(element);
    return result;
}

/* The list, which is in the slot, gets the element that comes next; steals it, also on failure. */
static inline int
add_element(Slot *slot, PyObject *list, PyObject *element)
{
    slot->number--;
    if (list_append(list, element) < 0) {
        return -1;
    }
    if (slot->number == 0) {
        show(list);
    }
    return 0;
}

/* CPython hashes tuples inside tuples without a guard for the C stack. */
static bool
is_hashable_depth(PyObject *key, int levels)
{
    if (!PyTuple_CheckExact(key)) {
        return true;
    }
    if (levels == 0) {
        return false;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(key); i++) {
        if (!is_hashable_depth(PyTuple_GET_ITEM(key, i), levels - 1)) {
            return false;
        }
    }
    return true;
}

static int
check_hashable(Reader *reader, PyObject *key)
{
    if (PyTuple_CheckExact(key) && !is_hashable_depth(key, MAX_DEPTH)) {
        refuse(reader, "a key of tuples nested deeper than %d", MAX_DEPTH);
        return -1;
    }
    return 0;
}

/* What Python says against a key or an index is the value's fault; the rest stays the exception it
 * is. */
static int
store_failed(Reader *reader)
{
    if (PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_IndexError) ||
        PyErr_ExceptionMatches(PyExc_RecursionError)) {
        refuse_caught(reader, "an element that can't be stored");
    }
    return -1;
}

/* container[key] = value for the three slots on top, in all generality; leaves the container. */
static int
store(Reader *reader)
{
    Slot *container = reader->top - 3;
    Slot *key = reader->top - 2;
    Slot *value = reader->top - 1;
    int result;

    if (container->object == NULL ||
        !(PyList_CheckExact(container->object) || PyDict_CheckExact(container->object))) {
        refuse(reader, "SETITEM on %R, not on a list or dict",
               container->object == NULL ? (PyObject *)&PyLong_Type
                                         : (PyObject *)Py_TYPE(container->object));
        return -1;
    }
    if (settle(reader, container) < 0 || settle(reader, key) < 0 || settle(reader, value) < 0) {
        return -1;
    }
    if (PyDict_CheckExact(container->object)) {
        if (check_hashable(reader, key->object) < 0) {
            return -1;
        }
        result = PyDict_SetItem(container->object, key->object, value->object);
    } else {
        result = PyObject_SetItem(container->object, key->object, value->object);
    }
    if (result < 0) {
        return store_failed(reader);
    }
    drop(reader, key);
    return 0;
}

static inline int
read_setitem(Reader *reader)
{
    if (reader->top - reader->stack < 3) {
        refuse(reader, "not enough items for setitem");
        return -1;
    }
    Slot *container = reader->top - 3;
    Slot *key = reader->top - 2;
    Slot *value = reader->top - 1;

    if (key->object != NULL) {
        return store(reader);
    }
    assert(container->number > 0);
    if (settle(reader, value) < 0) {
        return -1;
    }
    reader->top = key;
    return add_element(container, container->object, value->object);
}

/* ---- the tight path: scalars that go straight into the list or dict below ---- */

/* The next value where it is in memory and of a frequent kind without parts. 1: *value is it; 0: it
   is something else, nothing was read; -1: an error. */
static inline int
try_scalar(Reader *reader, PyObject **value)
{
    if (reader->pos == reader->end) {
        return 0;
    }
    switch (*reader->pos) {
    case OP_INT: {
        int32_t number;
        reader->pos++;
        *value = take_int4(reader, &number) < 0 ? NULL : PyLong_FromLong(number);
        break;
    }
    case OP_PY3STRING:
        if (reader->options->py3str_as_py2str) {
            return 0;
        }
        reader->pos++;
        *value = read_text(reader);
        break;
    case OP_FLOAT:
        reader->pos++;
        *value = read_float(reader);
        break;
    case OP_NONE:
        reader->pos++;
        *value = Py_NewRef(Py_None);
        break;
    case OP_TRUE:
        reader->pos++;
        *value = Py_NewRef(Py_True);
        break;
    case OP_FALSE:
        reader->pos++;
        *value = Py_NewRef(Py_False);
        break;
    case OP_LONGINT:
        reader->pos++;
        *value = read_decimal(reader);
        break;
    default:
        return 0;
    }
    return *value == NULL ? -1 : 1;
}

static inline bool
next_is(Reader *reader, char opcode)
{
    return reader->pos < reader->end && *reader->pos == opcode;
}

/* The list on top is at the element `index`, the next: read it and those that follow, as long as
   they are scalars. Any other is left to the stack, its index below it. */
static int
read_elements(Reader *reader, int32_t index)
{
    Slot *slot = reader->top - 1;
    PyObject *list = slot->object;
    PyObject *value;
    int found;

    while ((found = try_scalar(reader, &value)) > 0) {
        if (!next_is(reader, OP_SETITEM)) {
            if (push(reader, NULL, index) < 0) {
                Py_DECREF(value);
                return -1;
            }
            return push(reader, value, 0);
        }
        reader->pos++;
        if (add_element(slot, list, value) < 0) {
            return -1;
        }
        if (slot->number == 0 || reader->end - reader->pos < 5 || *reader->pos != OP_INT ||
            wire_get_int4(reader->pos + 1) != index + 1) {
            return 0;
        }
        reader->pos += 5;
        index++;
    }
    return found < 0 ? -1 : push(reader, NULL, index);
}

/* INT: where it is the index of the next element of the list below, it stays a number. */
static inline int
read_int(Reader *reader)
{
    int32_t number;

    if (take_int4(reader, &number) < 0) {
        return -1;
    }
    if (reader->top > reader->stack) {
        Slot *below = reader->top - 1;
        if (below->object != NULL && below->number > 0 &&
            PyList_GET_SIZE(below->object) == number) {
            return read_elements(reader, number);
        }
    }
    return push_new(reader, PyLong_FromLong(number));
}

/* PY3STRING as text: directly above a dict it is a key, whose scalar value may follow at once. */
static inline int
read_text_or_pair(Reader *reader)
{
    PyObject *dict = reader->top > reader->stack ? reader->top[-1].object : NULL;

    if (dict == NULL || !PyDict_CheckExact(dict)) {
        return push_new(reader, read_text(reader));
    }
    PyObject *key = read_key_text(reader);
    if (key == NULL) {
        return -1;
    }
    PyObject *value;
    int found = try_scalar(reader, &value);
    if (found <= 0) {
        if (found < 0) {
            Py_DECREF(key);
            return -1;
        }
        return push(reader, key, 0);
    }
    if (!next_is(reader, OP_SETITEM)) {
        if (push(reader, key, 0) < 0) {
            Py_DECREF(value);
            return -1;
        }
        return push(reader, value, 0);
    }
    reader->pos++;
    int result = PyDict_SetItem(dict, key, value);
    Py_DECREF(key);
    Py_DECREF(value);
    return result;
}

/* The slots of the `count` objects on top, settled; NULL where there are not as many. */
static Slot *
take_objects(Reader *reader, int32_t *count)
{
    if (take_count(reader, count) < 0) {
        return NULL;
    }
    if (*count > reader->top - reader->stack) {
        return refuse(reader, "a container of %d objects, there are %zd", (int)*count,
                      reader->top - reader->stack);
    }
    Slot *first = reader->top - *count;
    for (Slot *slot = first; slot < reader->top; slot++) {
        if (settle(reader, slot) < 0) {
            return NULL;
        }
    }
    return first;
}

static int
read_tuple(Reader *reader)
{
    int32_t count;
    Slot *first = take_objects(reader, &count);

    if (first == NULL) {
        return -1;
    }
    PyObject *tuple = PyTuple_New(count);
    if (tuple == NULL) {
        return -1;
    }
    for (int32_t i = 0; i < count; i++) {
        PyTuple_SET_ITEM(tuple, i, first[i].object);
    }
    reader->top = first;
    return push(reader, tuple, 0);
}

static int
read_set(Reader *reader, bool frozen)
{
    int32_t count;
    Slot *first = take_objects(reader, &count);

    if (first == NULL) {
        return -1;
    }
    PyObject *set = frozen ? PyFrozenSet_New(NULL) : PySet_New(NULL);
    if (set == NULL) {
        return -1;
    }
    for (int32_t i = 0; i < count; i++) {
        if (check_hashable(reader, first[i].object) < 0) {
            goto failed;
        }
        if (PySet_Add(set, first[i].object) < 0) {
            store_failed(reader);
            goto failed;
        }
    }
    drop(reader, first);
    return push(reader, set, 0);
failed:
    Py_DECREF(set);
    return -1;
}

/* ---- whole values ---- */

static int
refuse_opcode(Reader *reader, unsigned char opcode)
{
    PyObject *byte = PyBytes_FromStringAndSize((const char *)&opcode, 1);
    if (byte != NULL) {
        refuse(reader, "unknown opcode %R - wire protocol corruption?", byte);
        Py_DECREF(byte);
    }
    return -1;
}

static inline int
read_one(Reader *reader, unsigned char opcode)
{
    switch (opcode) {
    case OP_INT:
    case OP_LONG:
        return read_int(reader);
    case OP_SETITEM:
        return read_setitem(reader);
    case OP_PY3STRING:
        return reader->options->py3str_as_py2str ? push_new(reader, read_bytes(reader))
                                                 : read_text_or_pair(reader);
    case OP_NONE:
        return push(reader, Py_NewRef(Py_None), 0);
    case OP_TRUE:
        return push(reader, Py_NewRef(Py_True), 0);
    case OP_FALSE:
        return push(reader, Py_NewRef(Py_False), 0);
    case OP_FLOAT:
        return push_new(reader, read_float(reader));
    case OP_BUILDTUPLE:
        return read_tuple(reader);
    case OP_NEWLIST:
        return read_new_list(reader);
    case OP_NEWDICT:
        return push_new(reader, PyDict_New());
    case OP_BYTES:
        return push_new(reader, read_bytes(reader));
    case OP_LONGINT:
    case OP_LONGLONG:
        return push_new(reader, read_decimal(reader));
    case OP_SET:
        return read_set(reader, false);
    case OP_FROZENSET:
        return read_set(reader, true);
    case OP_CHANNEL:
        return push_new(reader, read_channel(reader));
    case OP_COMPLEX:
        return push_new(reader, read_complex(reader));
    case OP_UNICODE:
        return push_new(reader, read_text(reader));
    case OP_PY2STRING:
        return push_new(reader, read_py2_string(reader));
    default:
        return refuse_opcode(reader, opcode);
    }
}

static PyObject *
result_of(Reader *reader)
{
    if (reader->top - reader->stack != 1) {
        return refuse(reader, "internal unserialization error");
    }
    if (settle(reader, reader->stack) < 0) {
        return NULL;
    }
    reader->top = reader->stack;
    return reader->stack->object;
}

static void
reader_init(Reader *reader, CodecObject *codec, const LoadOptions *options)
{
    reader->codec = codec;
    reader->options = options;
    reader->pos = reader->end = reader->data = NULL;
    reader->read = NULL;
    reader->piece = NULL;
    reader->consumed = 0;
    reader->reservable = 0;
    reader->unassignable = MAX_UNASSIGNED;
#ifdef Py_GIL_DISABLED
    reader->key_cache = NULL;
#endif
    reader->stack = reader->top = reader->inline_slots;
    reader->limit = reader->inline_slots + INLINE_SLOTS;
}

static PyObject *
reader_run(Reader *reader)
{
    PyObject *result = NULL;

    for (;;) {
        const char *at = take(reader, 1);
        if (at == NULL) {
            break;
        }
        if (*at == OP_STOP) {
            result = result_of(reader);
            break;
        }
        if (read_one(reader, (unsigned char)*at) < 0) {
            break;
        }
    }
    drop(reader, reader->stack);
    if (reader->stack != reader->inline_slots) {
        PyMem_Free(reader->stack);
    }
    Py_XDECREF(reader->piece);
#ifdef Py_GIL_DISABLED
    if (reader->key_cache != NULL) {
        codec_free_keys(spare_put(&reader->codec->key_caches, reader->key_cache));
    }
#endif
    return result;
}

PyObject *
load_value(CodecObject *codec, const char *data, Py_ssize_t size, const LoadOptions *options)
{
    Reader reader;

    reader_init(&reader, codec, options);
    reader.data = reader.pos = data;
    reader.end = data + size;
    reader.reservable = size / ELEMENT_BYTES;
    return reader_run(&reader);
}

PyObject *
load_from_stream(CodecObject *codec, PyObject *stream, PyObject *version,
                 const LoadOptions *options)
{
    Reader reader;
    PyObject *result = NULL;

    reader_init(&reader, codec, options);
    reader.read = PyObject_GetAttr(stream, codec->str_read);
    if (reader.read == NULL) {
        return NULL;
    }
    if (version != NULL) {
        const char *found = take(&reader, 1);
        if (found == NULL) {
            goto done;
        }
        if (PyBytes_GET_SIZE(version) != 1 || *found != PyBytes_AS_STRING(version)[0]) {
            load_wrong_version(codec, found);
            goto done;
        }
        reader.consumed = 0;
    }
    result = reader_run(&reader);
    reader.piece = NULL;
done:
    Py_XDECREF(reader.piece);
    Py_DECREF(reader.read);
    return result;
}
