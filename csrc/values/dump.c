/* The value writer: one pass over the value into one growing buffer.

   Python code runs in reducers, and where one might not look for it: finalizers, whenever the
   garbage collector does (when a set's iterator or an exception is made) or a last reference is let
   go of. It may do anything to the containers on the way down. Without a GIL, so may other threads
   while this one waits for any lock, such as that of CPython's types: it gives away those it has.
   So values are borrowed from the container they are in only as long as nothing runs or waits;
   whoever is about to do so holds what it needs afterwards, and a container that then has another
   size is an error.

   An error is noted where it is found and gets its path while the containers are left, innermost
   first. */
#include "values/dump.h"

#include "values/bigint.h"
#include "wire.h"

/* Up to this many characters, a text keeps its UTF-8 form, in the str, where CPython caches it and
   pickle, too, leaves it: sending the same text again is a memcpy. Larger ones are not to become
   larger still: theirs is made for the moment. */
enum { CACHED_UTF8_LONGEST = 4 * 1024 * 1024 };

/* Values of some KiB are frequent: up to here the buffer grows in large steps. */
enum { SMALL_BYTES = 64 * 1024 };

/* Subscripts in error texts are cut to this many characters. */
enum { SUBSCRIPT_LONGEST = 60 };

typedef struct {
    CodecObject *codec;
    DumpBuffer *out;
    int depth;
    PyObject *gateway; /* that the value goes over, or NULL: any */
    /* What can't be serialized, when that is why writing failed; otherwise an exception is set. */
    PyTypeObject *bad_type;
    const char *reason; /* beyond the type, or NULL */
    bool without_path;
    PyObject *detail; /* has the reason's text, or NULL */
    PyObject *path;   /* text of the subscripts that lead to it from where the writer is, or NULL */
} Writer;

static int write_value(Writer *writer, PyObject *value);
static int write_inherited(Writer *writer, PyObject *value, PyTypeObject *base);

/* ---- the buffer ---- */

static void
buffer_init(DumpBuffer *buffer)
{
    buffer->start = buffer->pos = buffer->inline_bytes;
    buffer->end = buffer->inline_bytes + DUMP_INLINE_BYTES;
    buffer->owner = NULL;
    buffer->big = NULL;
    buffer->big_data = NULL;
    buffer->big_size = 0;
}

void
dump_release(DumpBuffer *buffer)
{
    Py_CLEAR(buffer->owner);
    Py_CLEAR(buffer->big);
}

static NEVER_INLINE int
buffer_grow(DumpBuffer *buffer, Py_ssize_t more)
{
    Py_ssize_t used = buffer->pos - buffer->start;
    Py_ssize_t capacity = buffer->end - buffer->start;

    if (more > PY_SSIZE_T_MAX / 2 - used) {
        PyErr_NoMemory();
        return -1;
    }
    /* A little more than asked for: the few bytes after a large piece then need no second copy of
     * it. */
    Py_ssize_t factor = capacity < SMALL_BYTES ? 4 : 2;
    Py_ssize_t wanted =
        Py_MAX(used + more + 32, capacity < PY_SSIZE_T_MAX / 4 ? capacity * factor : 0);
    if (buffer->owner == NULL) {
        buffer->owner = PyBytes_FromStringAndSize(NULL, wanted);
        if (buffer->owner != NULL) {
            memcpy(PyBytes_AS_STRING(buffer->owner), buffer->start, (size_t)used);
        }
    } else {
        (void)_PyBytes_Resize(&buffer->owner, wanted);
    }
    if (buffer->owner == NULL) {
        buffer_init(buffer);
        return -1;
    }
    buffer->start = PyBytes_AS_STRING(buffer->owner);
    buffer->pos = buffer->start + used;
    buffer->end = buffer->start + wanted;
    return 0;
}

/* Room for `count` bytes, to be filled by the caller; NULL with MemoryError. */
static inline char *
buffer_take(DumpBuffer *buffer, Py_ssize_t count)
{
    if (buffer->end - buffer->pos < count && buffer_grow(buffer, count) < 0) {
        return NULL;
    }
    char *at = buffer->pos;
    buffer->pos += count;
    return at;
}

/* ---- plain types ---- */

static bool
is_scalar(PyTypeObject *type)
{
    return type == &PyUnicode_Type || type == &PyLong_Type || type == &PyBytes_Type ||
           type == &PyFloat_Type || type == &PyComplex_Type || type == &PyBool_Type;
}

static bool
is_plain(PyTypeObject *type)
{
    return is_scalar(type) || type == &PyList_Type || type == &PyDict_Type ||
           type == &PyTuple_Type || type == &PySet_Type || type == &PyFrozenSet_Type;
}

/* ---- errors ---- */

static NEVER_INLINE int
fail(Writer *writer, PyObject *value, const char *reason)
{
    writer->bad_type = (PyTypeObject *)Py_NewRef((PyObject *)Py_TYPE(value));
    writer->reason = reason;
    return -1;
}

static PyObject *
subscript_text(PyObject *key)
{
    PyObject *text = NULL;

    if (key == Py_None || is_scalar(Py_TYPE(key))) { /* its repr is short */
        text = PyObject_Repr(key);
        if (text == NULL) {
            /* An int beyond the interpreter's digit limit. */
            if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
                return NULL;
            }
            PyErr_Clear();
        }
    }
    if (text == NULL) {
        text = PyObject_Repr((PyObject *)Py_TYPE(key));
    }
    if (text == NULL || PyUnicode_GET_LENGTH(text) <= SUBSCRIPT_LONGEST) {
        return text;
    }
    Py_SETREF(text, PyUnicode_Substring(text, 0, SUBSCRIPT_LONGEST - 3));
    if (text != NULL) {
        Py_SETREF(text, PyUnicode_FromFormat("%U...", text));
    }
    return text;
}

/* A container is left because of a bad value in it: note the step that led there, given as its
   text. Steals `step`, which is NULL where making it failed. */
static void
note_step(Writer *writer, PyObject *step)
{
    if (step != NULL && writer->path != NULL) {
        Py_SETREF(step, PyUnicode_Concat(step, writer->path));
    }
    if (step == NULL) {
        /* The exception of the moment takes the place of the DumpError. */
        Py_CLEAR(writer->bad_type);
        return;
    }
    Py_XSETREF(writer->path, step);
}

static inline bool
wants_step(const Writer *writer)
{
    return writer->bad_type != NULL && !writer->without_path;
}

static void
note_index(Writer *writer, Py_ssize_t index)
{
    if (wants_step(writer)) {
        note_step(writer, PyUnicode_FromFormat("[%zd]", index));
    }
}

static void
note_key(Writer *writer, PyObject *key)
{
    if (wants_step(writer)) {
        PyObject *text = subscript_text(key);
        note_step(writer, text == NULL ? NULL : PyUnicode_FromFormat("[%U]", text));
        Py_XDECREF(text);
    }
}

static void
note_name(Writer *writer, const char *name)
{
    if (wants_step(writer)) {
        note_step(writer, PyUnicode_FromString(name));
    }
}

static PyObject *
path_text(Writer *writer)
{
    return writer->path == NULL ? PyUnicode_FromString("")
                                : PyUnicode_FromFormat(" at %U", writer->path);
}

/* Turn what was noted into the exception. */
static void
raise_noted(Writer *writer)
{
    if (writer->bad_type != NULL) {
        PyObject *path = path_text(writer);
        if (path != NULL) {
            PyErr_Format(writer->codec->dump_error, "can't serialize %R%U%s%s",
                         (PyObject *)writer->bad_type, path, writer->reason == NULL ? "" : ": ",
                         writer->reason == NULL ? "" : writer->reason);
            Py_DECREF(path);
        }
    }
    Py_CLEAR(writer->bad_type);
    Py_CLEAR(writer->detail);
    Py_CLEAR(writer->path);
}

/* ---- scalars ---- */

static inline int
write_opcode(Writer *writer, char opcode)
{
    char *to = buffer_take(writer->out, 1);
    if (to == NULL) {
        return -1;
    }
    *to = opcode;
    return 0;
}

static inline int
write_int4(Writer *writer, char opcode, int32_t operand)
{
    char *to = buffer_take(writer->out, 5);
    if (to == NULL) {
        return -1;
    }
    to[0] = opcode;
    wire_put_int4(to + 1, operand);
    return 0;
}

static inline int
write_sized(Writer *writer, PyObject *value, char opcode, const char *data, Py_ssize_t size)
{
    if (size > INT32_MAX) {
        return fail(writer, value, "too large");
    }
    char *to = buffer_take(writer->out, 5 + size);
    if (to == NULL) {
        return -1;
    }
    to[0] = opcode;
    wire_put_int4(to + 1, (int32_t)size);
    memcpy(to + 5, data, (size_t)size);
    return 0;
}

static int
write_huge_int(Writer *writer, PyObject *value)
{
    Py_INCREF(value);
    PyObject *convert = codec_name(writer->codec->names, "_digits_from_int");
    /* Itself, or the int that is in the object of a subclass, whose methods must not be called. */
    PyObject *number = convert == NULL ? NULL : PyLong_Type.tp_as_number->nb_positive(value);
    PyObject *digits = number == NULL ? NULL : PyObject_CallOneArg(convert, number);
    int result = -1;
    if (digits != NULL && PyBytes_CheckExact(digits)) {
        result = write_sized(writer, value, OP_LONGINT, PyBytes_AS_STRING(digits),
                             PyBytes_GET_SIZE(digits));
    } else if (digits != NULL) {
        PyErr_Format(PyExc_TypeError, "_digits_from_int gave %R, not bytes", digits);
    }
    Py_XDECREF(digits);
    Py_XDECREF(number);
    Py_XDECREF(convert);
    Py_DECREF(value);
    return result;
}

static NEVER_INLINE int
write_large_int(Writer *writer, PyObject *value)
{
    char *to = buffer_take(writer->out, 5 + BIGINT_TEXT);
    if (to == NULL) {
        return -1;
    }
    int length = bigint_format(value, to + 5);
    if (length <= 0) {
        writer->out->pos = to;
        return length < 0 ? -1 : write_huge_int(writer, value);
    }
    to[0] = OP_LONGINT;
    wire_put_int4(to + 1, length);
    writer->out->pos = to + 5 + length;
    return 0;
}

static inline int
write_int(Writer *writer, PyObject *value)
{
    int32_t number;

    return int_as_int32(value, &number) ? write_int4(writer, OP_INT, number)
                                        : write_large_int(writer, value);
}

static inline int
write_float(Writer *writer, PyObject *value)
{
    char *to = buffer_take(writer->out, 9);
    if (to == NULL) {
        return -1;
    }
    to[0] = OP_FLOAT;
    wire_put_double(to + 1, PyFloat_AS_DOUBLE(value));
    return 0;
}

static int
write_complex(Writer *writer, PyObject *value)
{
    char *to = buffer_take(writer->out, 17);
    if (to == NULL) {
        return -1;
    }
    to[0] = OP_COMPLEX;
    wire_put_double(to + 1, PyComplex_RealAsDouble(value));
    wire_put_double(to + 9, PyComplex_ImagAsDouble(value));
    return 0;
}

/* A text without UTF-8 form (a lone surrogate) is the value's fault, all else is an exception of
 * its own. The caller holds the text: the exception that is cleared here does no longer. */
static int
text_failed(Writer *writer, PyObject *value)
{
    if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
        return -1;
    }
    PyErr_Clear();
    return fail(writer, value, "strings must be utf-8 encodable");
}

static int
write_cached_text(Writer *writer, PyObject *value)
{
    Py_ssize_t size;
    const char *data = PyUnicode_AsUTF8AndSize(value, &size);

    return data == NULL ? text_failed(writer, value)
                        : write_sized(writer, value, OP_PY3STRING, data, size);
}

static int
write_long_text(Writer *writer, PyObject *value)
{
    PyObject *utf8 = PyUnicode_AsUTF8String(value);
    if (utf8 == NULL) {
        return text_failed(writer, value);
    }
    int result =
        write_sized(writer, value, OP_PY3STRING, PyBytes_AS_STRING(utf8), PyBytes_GET_SIZE(utf8));
    Py_DECREF(utf8);
    return result;
}

static NEVER_INLINE int
write_other_text(Writer *writer, PyObject *value)
{
    Py_INCREF(value);
    int result = PyUnicode_GetLength(value) <= CACHED_UTF8_LONGEST
                     ? write_cached_text(writer, value)
                     : write_long_text(writer, value);
    Py_DECREF(value);
    return result;
}

static inline int
write_text(Writer *writer, PyObject *value)
{
    if (PyUnicode_IS_COMPACT_ASCII(value)) {
        return write_sized(writer, value, OP_PY3STRING, (const char *)PyUnicode_DATA(value),
                           PyUnicode_GET_LENGTH(value));
    }
    return write_other_text(writer, value);
}

/* ---- containers and channels ---- */

/* What precedes an element of a list: its index, and SETITEM for the element before it. */
static inline int
write_index(Writer *writer, int32_t index)
{
    if (index == 0) {
        return write_int4(writer, OP_INT, index);
    }
    char *to = buffer_take(writer->out, 6);
    if (to == NULL) {
        return -1;
    }
    to[0] = OP_SETITEM;
    to[1] = OP_INT;
    wire_put_int4(to + 2, index);
    return 0;
}

static int
write_list(Writer *writer, PyObject *list)
{
    Py_ssize_t size = PyList_GET_SIZE(list);

    if (size > INT32_MAX) {
        return fail(writer, list, "too large");
    }
    if (write_int4(writer, OP_NEWLIST, (int32_t)size) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        if (write_index(writer, (int32_t)i) < 0) {
            return -1;
        }
        if (write_value(writer, PyList_GET_ITEM(list, i)) < 0) {
            note_index(writer, i);
            return -1;
        }
        if (PyList_GET_SIZE(list) != size) {
            PyErr_SetString(PyExc_RuntimeError, "list changed size while it was serialized");
            return -1;
        }
    }
    return size > 0 ? write_opcode(writer, OP_SETITEM) : 0;
}

static int
write_tuple(Writer *writer, PyObject *tuple)
{
    Py_ssize_t size = PyTuple_GET_SIZE(tuple);

    if (size > INT32_MAX) {
        return fail(writer, tuple, "too large");
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        if (write_value(writer, PyTuple_GET_ITEM(tuple, i)) < 0) {
            note_index(writer, i);
            return -1;
        }
    }
    return write_int4(writer, OP_BUILDTUPLE, (int32_t)size);
}

static ALWAYS_INLINE int
write_pair(Writer *writer, PyObject *key, PyObject *value)
{
    if (write_value(writer, key) < 0) {
        note_name(writer, "<key>");
        return -1;
    }
    if (write_value(writer, value) < 0) {
        note_key(writer, key);
        return -1;
    }
    return write_opcode(writer, OP_SETITEM);
}

/* The order of an OrderedDict is its own, beside that of the dict it is. */
static int
write_ordered_pairs(Writer *writer, PyObject *dict)
{
    PyObject *iterator = PyODict_Type.tp_iter(dict);
    if (iterator == NULL) {
        return -1;
    }
    PyObject *key;
    int result = 0;

    while (result == 0 && (key = PyIter_Next(iterator)) != NULL) {
        PyObject *value;
        int found = PyDict_GetItemRef(dict, key, &value);
        if (found > 0) {
            result = write_pair(writer, key, value);
            Py_DECREF(value);
        } else {
            result = -1;
            if (found == 0) {
                PyErr_SetString(PyExc_RuntimeError, "dict changed while it was serialized");
            }
        }
        Py_DECREF(key);
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : result;
}

static int
write_dict(Writer *writer, PyObject *dict)
{
    PyObject *key;
    PyObject *value;
    Py_ssize_t position = 0;
    Py_ssize_t size = PyDict_GET_SIZE(dict);
    Py_ssize_t rest = size;

    if (write_opcode(writer, OP_NEWDICT) < 0) {
        return -1;
    }
    if (!PyDict_CheckExact(dict) && PyODict_Check(dict)) {
        return write_ordered_pairs(writer, dict);
    }
    while (PyDict_Next(dict, &position, &key, &value)) {
        Py_INCREF(key);
        Py_INCREF(value);
        int result = write_pair(writer, key, value);
        Py_DECREF(key);
        Py_DECREF(value);
        if (result < 0) {
            return -1;
        }
        if (PyDict_GET_SIZE(dict) != size || rest-- == 0) {
            break;
        }
    }
    if (PyDict_GET_SIZE(dict) != size || rest != 0) {
        PyErr_SetString(PyExc_RuntimeError, "dict changed while it was serialized");
        return -1;
    }
    return 0;
}

static int
write_set(Writer *writer, PyObject *set, char opcode)
{
    PyObject *iterator = PySet_Type.tp_iter(set); /* a frozenset's as well */
    if (iterator == NULL) {
        return -1;
    }
    Py_ssize_t count = 0;
    PyObject *member;
    int result = 0;

    while (result == 0 && (member = PyIter_Next(iterator)) != NULL) {
        result = write_value(writer, member);
        if (result < 0) {
            note_name(writer, "<element>");
        }
        Py_DECREF(member);
        count++;
    }
    Py_DECREF(iterator);
    if (result < 0 || PyErr_Occurred()) {
        return -1;
    }
    if (count > INT32_MAX) {
        return fail(writer, set, "too large");
    }
    return write_int4(writer, opcode, (int32_t)count);
}

/* A channel's id means another channel, or none, on the other side of another gateway. */
static int
check_gateway(Writer *writer, PyObject *channel)
{
    if (writer->gateway == NULL) {
        return 0;
    }
    PyObject *owner = PyObject_GetAttr(channel, writer->codec->str_gateway);
    if (owner == NULL || owner == writer->gateway) {
        Py_XDECREF(owner);
        return owner == NULL ? -1 : 0;
    }
    PyObject *id = PyObject_GetAttr(owner, writer->codec->str_id);
    PyObject *own_id = id == NULL ? NULL : PyObject_GetAttr(writer->gateway, writer->codec->str_id);
    if (own_id != NULL) {
        writer->detail = PyUnicode_FromFormat("it belongs to gateway %R, not to %R", id, own_id);
    }
    Py_XDECREF(own_id);
    Py_XDECREF(id);
    Py_DECREF(owner);
    const char *text = writer->detail == NULL ? NULL : PyUnicode_AsUTF8(writer->detail);
    return text == NULL ? -1 : fail(writer, channel, text);
}

static int
write_channel(Writer *writer, PyObject *channel)
{
    if (check_gateway(writer, channel) < 0) {
        return -1;
    }
    PyObject *id = PyObject_GetAttr(channel, writer->codec->str_id);
    if (id == NULL) {
        return -1;
    }
    int overflow = 0;
    long long number =
        PyLong_Check(id) ? PyLong_AsLongLongAndOverflow(id, &overflow) : INT32_MAX + 1LL;
    Py_DECREF(id);
    if (overflow != 0 || number < INT32_MIN || number > INT32_MAX) {
        return fail(writer, channel, "its id is not an int of 32 bits");
    }
    return write_int4(writer, OP_CHANNEL, (int32_t)number);
}

/* One level further down, unless that is too deep. */
static ALWAYS_INLINE int
go_down(Writer *writer, PyObject *value)
{
    if (writer->depth == MAX_DEPTH) {
        writer->without_path = true;
        return fail(writer, value,
                    is_plain(Py_TYPE(value))
                        ? "nested deeper than " Py_STRINGIFY(MAX_DEPTH)
                        : "nested or reduced deeper than " Py_STRINGIFY(MAX_DEPTH));
    }
    writer->depth++;
    return 0;
}

/* Without a GIL, the lock of a container keeps out other threads that would change it, but not
   while this one waits, such as for the lock of another container in it. */
static NEVER_INLINE int
write_container(Writer *writer, PyObject *value, PyTypeObject *type)
{
    int result;

    if (go_down(writer, value) < 0) {
        return -1;
    }
    Py_INCREF(value);
    if (type == &PyList_Type) {
        Py_BEGIN_CRITICAL_SECTION(value);
        result = write_list(writer, value);
        Py_END_CRITICAL_SECTION();
    } else if (type == &PyDict_Type) {
        Py_BEGIN_CRITICAL_SECTION(value);
        result = write_dict(writer, value);
        Py_END_CRITICAL_SECTION();
    } else if (type == &PyTuple_Type) {
        result = write_tuple(writer, value);
    } else { /* its iterator takes the lock, which waits for a thread that has it already */
        result = write_set(writer, value, type == &PySet_Type ? OP_SET : OP_FROZENSET);
    }
    Py_DECREF(value);
    writer->depth--;
    return result;
}

/* ---- objects of other classes ---- */

typedef enum { WRITTEN, FAILED, PASSED_ON } Outcome;

/* Write what `reducer` gives in the place of `value`; the caller holds both. */
static Outcome
write_reduced(Writer *writer, PyObject *value, PyObject *reducer)
{
    PyObject *reduced = PyObject_CallOneArg(reducer, value);
    Outcome outcome = FAILED;

    if (reduced == value) {
        (void)fail(writer, value, "its reducer gives it back");
    } else if (reduced == Py_NotImplemented) {
        outcome = PASSED_ON;
    } else if (reduced != NULL && go_down(writer, value) == 0) {
        if (write_value(writer, reduced) == 0) {
            outcome = WRITTEN;
        } else {
            note_name(writer, "<reduced>");
        }
        writer->depth--;
    }
    Py_XDECREF(reduced);
    return outcome;
}

/* What the module's function of that name gives for `value`, which the caller holds: its bytes, or
   None where it can't be written. */
static int
write_by_function(Writer *writer, PyObject *value, const char *name)
{
    PyObject *gateway = writer->gateway == NULL ? Py_None : writer->gateway;
    PyObject *bytes = NULL;
    int result = -1;

    PyObject *function = codec_name(writer->codec->names, name);
    if (function == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_KeyError)) {
            return -1;
        }
        PyErr_Clear();
        return fail(writer, value, NULL); /* the module is being taken apart */
    }
    bytes = PyObject_CallFunctionObjArgs(function, value, gateway, NULL);
    Py_DECREF(function);
    if (bytes == NULL) {
        return -1;
    }
    if (PyBytes_CheckExact(bytes)) {
        char *to = buffer_take(writer->out, PyBytes_GET_SIZE(bytes));
        if (to != NULL) {
            memcpy(to, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
            result = 0;
        }
    } else {
        (void)fail(writer, value, NULL);
    }
    Py_DECREF(bytes);
    return result;
}

/* By the nearest of its classes that has a reducer or is a plain type. The caller holds `value`;
   `classes`, its method resolution order; and `reducers`, which may be NULL. */
static int
write_by_class(Writer *writer, PyObject *value, PyObject *classes, PyObject *reducers)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(classes); i++) {
        PyObject *class = PyTuple_GET_ITEM(classes, i);
        PyObject *reducer = NULL;
        if (reducers != NULL && PyDict_GetItemRef(reducers, class, &reducer) < 0) {
            return -1;
        }
        if (reducer != NULL) {
            Outcome outcome = write_reduced(writer, value, reducer);
            Py_DECREF(reducer);
            if (outcome != PASSED_ON) {
                return outcome == WRITTEN ? 0 : -1;
            }
        }
        if (is_plain((PyTypeObject *)class)) {
            return write_inherited(writer, value, (PyTypeObject *)class);
        }
    }
    return write_by_function(writer, value, "_saved_by_own_method");
}

/* The caller holds `value`. */
static int
write_other(Writer *writer, PyObject *value)
{
    CodecObject *codec = writer->codec;
    PyObject *classes = type_classes(Py_TYPE(value));
    PyObject *reducers;
    int result = -1;

    if (classes == NULL) {
        return fail(writer, value, NULL); /* the collector takes its class apart */
    }
    if (PyDict_GetItemRef(codec->names, codec->str_reducers, &reducers) < 0) {
        goto done;
    }
    bool any = reducers != NULL && PyDict_CheckExact(reducers) && PyDict_GET_SIZE(reducers) > 0;
    result = write_by_class(writer, value, classes, any ? reducers : NULL);
done:
    Py_XDECREF(reducers);
    Py_DECREF(classes);
    return result;
}

static NEVER_INLINE int
write_rare(Writer *writer, PyObject *value, PyTypeObject *type)
{
    if (type == &PyComplex_Type) {
        return write_complex(writer, value);
    }
    Py_INCREF(value);
    int result = PyObject_TypeCheck(value, writer->codec->channel_type)
                     ? write_channel(writer, value)
                     : write_other(writer, value);
    Py_DECREF(value);
    return result;
}

/* As an object of the type, the frequent ones first. */
static ALWAYS_INLINE int
write_as(Writer *writer, PyObject *value, PyTypeObject *type)
{
    if (type == &PyUnicode_Type) {
        return write_text(writer, value);
    }
    if (type == &PyLong_Type) {
        return write_int(writer, value);
    }
    if (value == Py_None) {
        return write_opcode(writer, OP_NONE);
    }
    if (type == &PyBool_Type) {
        return write_opcode(writer, value == Py_True ? OP_TRUE : OP_FALSE);
    }
    if (type == &PyFloat_Type) {
        return write_float(writer, value);
    }
    if (type == &PyBytes_Type) {
        return write_sized(writer, value, OP_BYTES, PyBytes_AS_STRING(value),
                           PyBytes_GET_SIZE(value));
    }
    if (type == &PyList_Type || type == &PyDict_Type || type == &PyTuple_Type ||
        type == &PySet_Type || type == &PyFrozenSet_Type) {
        return write_container(writer, value, type);
    }
    return write_rare(writer, value, type);
}

/* By exact type. `value` may be borrowed from a container. */
static int
write_value(Writer *writer, PyObject *value)
{
    return write_as(writer, value, Py_TYPE(value));
}

/* As what it inherits from. The object's own methods are not asked. */
static NEVER_INLINE int
write_inherited(Writer *writer, PyObject *value, PyTypeObject *base)
{
    return write_as(writer, value, base);
}

/* ---- whole values ---- */

/* Whether somebody has changed the module's _Serializer, whose methods write all values then. */
static inline bool
is_changed(CodecObject *codec)
{
    return PyDict_GET_SIZE(codec->changes) > 0 || PyDict_GET_SIZE(codec->dispatch) > 0;
}

static int
write_whole(CodecObject *codec, PyObject *value, PyObject *gateway, DumpBuffer *out)
{
    Writer writer = {.codec = codec, .out = out, .gateway = gateway};
    int result = is_changed(codec) ? write_by_function(&writer, value, "_saved_by_methods")
                                   : write_value(&writer, value);

    if (result < 0) {
        raise_noted(&writer);
        return -1;
    }
    return write_opcode(&writer, OP_STOP);
}

/* Borrow a large bytes or str instead of copying it: 1 done, 0 not such a value, -1 error. */
static int
borrow_big(PyObject *value, DumpBuffer *out)
{
    char opcode;

    if (PyBytes_CheckExact(value)) {
        if (PyBytes_GET_SIZE(value) < DUMP_BIG) {
            return 0;
        }
        opcode = OP_BYTES;
        out->big = Py_NewRef(value);
        out->big_data = PyBytes_AS_STRING(value);
        out->big_size = PyBytes_GET_SIZE(value);
    } else if (PyUnicode_CheckExact(value) && PyUnicode_IS_COMPACT_ASCII(value)) {
        if (PyUnicode_GET_LENGTH(value) < DUMP_BIG) {
            return 0;
        }
        opcode = OP_PY3STRING;
        out->big = Py_NewRef(value);
        out->big_data = (const char *)PyUnicode_DATA(value);
        out->big_size = PyUnicode_GET_LENGTH(value);
    } else {
        return 0;
    }
    if (out->big_size > INT32_MAX) {
        Py_CLEAR(out->big); /* the writer tells it is too large */
        return 0;
    }
    char *to = buffer_take(out, 5);
    if (to == NULL) {
        return -1;
    }
    to[0] = opcode;
    wire_put_int4(to + 1, (int32_t)out->big_size);
    return 1;
}

int
dump_message(CodecObject *codec, PyObject *value, PyObject *gateway, Py_ssize_t reserve,
             DumpBuffer *out)
{
    assert(reserve >= 0 && reserve <= DUMP_INLINE_BYTES);
    buffer_init(out);
    out->pos += reserve;
    int result = is_changed(codec) ? 0 : borrow_big(value, out);
    if (result == 0) {
        result = write_whole(codec, value, gateway, out);
    }
    if (result < 0) {
        dump_release(out);
        return -1;
    }
    return 0;
}

PyObject *
dump_to_bytes(CodecObject *codec, PyObject *value, PyObject *gateway, const char *prefix,
              Py_ssize_t prefix_size)
{
    DumpBuffer out;
    PyObject *bytes = NULL;

    buffer_init(&out);
    char *to = buffer_take(&out, prefix_size);
    if (to != NULL) {
        memcpy(to, prefix, (size_t)prefix_size);
    }
    if (to != NULL && write_whole(codec, value, gateway, &out) == 0) {
        Py_ssize_t size = out.pos - out.start;
        if (out.owner == NULL) {
            bytes = PyBytes_FromStringAndSize(out.start, size);
        } else {
            bytes = out.owner;
            out.owner = NULL;
            (void)_PyBytes_Resize(&bytes, size);
        }
    }
    dump_release(&out);
    return bytes;
}
