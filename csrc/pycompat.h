/* What differs between the versions of CPython, each of it once. Everything else in csrc/ is
   written for all of them: where the newest has a public name, by that, else by a name from here.
 */
#ifndef EXECNET_PYCOMPAT_H
#define EXECNET_PYCOMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#if PY_VERSION_HEX < 0x030B0000
#include <longintrepr.h>
#endif

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

/* ---- references ---- */

#if PY_VERSION_HEX < 0x030A0000
static inline PyObject *
pycompat_new_ref(PyObject *object)
{
    Py_INCREF(object);
    return object;
}
/* As CPython's own, takes a pointer to any object. */
#define Py_NewRef(object) pycompat_new_ref((PyObject *)(object))
#endif

#if PY_VERSION_HEX < 0x030D0000
static inline int
pycompat_weakref_get_ref(PyObject *reference, PyObject **object)
{
    PyObject *found = PyWeakref_GET_OBJECT(reference);

    *object = found == Py_None ? NULL : Py_NewRef(found);
    return *object != NULL;
}
#define PyWeakref_GetRef pycompat_weakref_get_ref

static inline int
pycompat_dict_get_item_ref(PyObject *dict, PyObject *key, PyObject **value)
{
    *value = PyDict_GetItemWithError(dict, key);
    Py_XINCREF(*value);
    return *value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
}
#define PyDict_GetItemRef pycompat_dict_get_item_ref

static inline int
pycompat_dict_pop(PyObject *dict, PyObject *key, PyObject **value)
{
    int found = pycompat_dict_get_item_ref(dict, key, value);

    if (found > 0 && PyDict_DelItem(dict, key) < 0) {
        Py_CLEAR(*value);
        return -1;
    }
    return found;
}
#define PyDict_Pop pycompat_dict_pop

static inline PyObject *
pycompat_list_get_item_ref(PyObject *list, Py_ssize_t index)
{
    PyObject *item = PyList_GetItem(list, index);

    Py_XINCREF(item);
    return item;
}
#define PyList_GetItemRef pycompat_list_get_item_ref

/* There is a GIL, and nothing to be locked. */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* A tp_traverse: where there is no GIL, the collector has stopped all other threads for it, in a
   way that ThreadSanitizer does not see. */
#ifdef __SANITIZE_THREAD__
#define WHILE_OTHERS_STAND __attribute__((no_sanitize_thread))
#else
#define WHILE_OTHERS_STAND
#endif

/* The classes that a class inherits from, nearest first; NULL: the collector takes it apart. Owned.
 */
static inline PyObject *
type_classes(PyTypeObject *type)
{
#ifdef Py_GIL_DISABLED
    /* Another thread may give it others: only CPython can ask for them and hold them in one. */
    PyObject *classes = PyObject_GetAttrString((PyObject *)type, "__mro__");

    if (classes == NULL || !PyTuple_Check(classes)) {
        PyErr_Clear();
        Py_CLEAR(classes);
    }
    return classes;
#else
    Py_XINCREF(type->tp_mro);
    return type->tp_mro;
#endif
}

/* ---- threads, looked at without the GIL where nothing changes meanwhile ---- */

#if PY_VERSION_HEX < 0x030B0000 || (PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030F0000)
/* No function for it is exported: faulthandler has to be asked before, with the GIL. */
#define THREADS_DUMP_IS_FAULTHANDLERS
#elif PY_VERSION_HEX >= 0x030F0000
static inline bool
threads_dump(int fd)
{
    return PyUnstable_DumpTracebackThreads(fd, PyInterpreterState_Main(), NULL, 100) == NULL;
}
#elif defined(__GNUC__)
/* What faulthandler itself calls; these versions do not change any more. */
extern const char *_Py_DumpTracebackThreads(int fd, PyInterpreterState *interpreter,
                                            PyThreadState *current) __attribute__((weak));

static inline bool
threads_dump(int fd)
{
    return _Py_DumpTracebackThreads != NULL &&
           _Py_DumpTracebackThreads(fd, PyInterpreterState_Main(), NULL) == NULL;
}
#else
static inline bool
threads_dump(int fd)
{
    (void)fd;
    return false;
}
#endif

static inline bool
thread_has_gil(PyThreadState *thread)
{
#ifdef Py_GIL_DISABLED
    (void)thread;
    return false;
#elif PY_VERSION_HEX >= 0x030C0000
    return thread->_status.active;
#else
    return thread == _PyThreadState_UncheckedGet();
#endif
}

/* ---- integers: their digits in base 2 ** PyLong_SHIFT, least significant first ---- */

#if PY_VERSION_HEX >= 0x030E0000
#define WITH_INT_API /* PyLong_Export and PyLongWriter */
#endif

/* What int_digits gives. Not to be moved while in use: `digits` may point into it. */
typedef struct {
    const digit *digits;
    Py_ssize_t count;
    bool negative;
#ifdef WITH_INT_API
    PyLongExport exported;
    digit few[64 / PyLong_SHIFT + 1];
#endif
} IntDigits;

/* An int in the making. */
#ifdef WITH_INT_API
typedef PyLongWriter IntWriter;
#else
typedef PyLongObject IntWriter;
#endif

/* Whether digits are kept as it is said here. */
static inline bool
int_layout_is_known(void)
{
#ifdef WITH_INT_API
    const PyLongLayout *layout = PyLong_GetNativeLayout();

    return layout->bits_per_digit == PyLong_SHIFT && layout->digit_size == sizeof(digit) &&
           layout->digits_order == -1 && layout->digit_endianness == (PY_BIG_ENDIAN ? 1 : -1);
#else
    return true;
#endif
}

/* The digits of an exact int; ended with int_release. */
static inline void
int_digits(PyObject *value, IntDigits *to)
{
#ifdef WITH_INT_API
    int failed = PyLong_Export(value, &to->exported);

    assert(!failed); /* no int does */
    (void)failed;
    if (to->exported.digits != NULL) {
        to->digits = to->exported.digits;
        to->count = to->exported.ndigits;
        to->negative = to->exported.negative;
        return;
    }
    to->digits = to->few;
    to->count = 0;
    to->negative = to->exported.value < 0;
    uint64_t left = (uint64_t)to->exported.value;
    for (left = to->negative ? 0 - left : left; left != 0; left >>= PyLong_SHIFT) {
        to->few[to->count++] = (digit)(left & PyLong_MASK);
    }
#else
    PyLongObject *self = (PyLongObject *)value;
#if PY_VERSION_HEX >= 0x030C0000
    to->count = (Py_ssize_t)(self->long_value.lv_tag >> 3);
    to->negative = (self->long_value.lv_tag & 3) == 2;
    to->digits = self->long_value.ob_digit;
#else
    to->count = Py_ABS(Py_SIZE(self));
    to->negative = Py_SIZE(self) < 0;
    to->digits = self->ob_digit;
#endif
#endif
}

static inline void
int_release(IntDigits *digits)
{
#ifdef WITH_INT_API
    PyLong_FreeExport(&digits->exported);
#else
    (void)digits;
#endif
}

/* Whether an exact int fits 32 bits; *number is it then. */
static inline bool
int_as_int32(PyObject *value, int32_t *number)
{
    int64_t wide = 0;
#ifdef WITH_INT_API
    if (PyUnstable_Long_IsCompact((PyLongObject *)value)) {
        wide = PyUnstable_Long_CompactValue((PyLongObject *)value);
    } else {
        int overflow;
        wide = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow) {
            return false;
        }
    }
#else
    IntDigits all;

    int_digits(value, &all);
    if (all.count > 62 / PyLong_SHIFT) {
        return false;
    }
    while (all.count > 0) {
        wide = wide << PyLong_SHIFT | all.digits[--all.count];
    }
    if (all.negative) {
        wide = -wide;
    }
#endif
    *number = (int32_t)wide;
    return wide >= INT32_MIN && wide <= INT32_MAX;
}

/* An int of `count` digits, at least two, the last other than 0: the caller fills them in, all of
 * them, then calls intwriter_finish. NULL with MemoryError. */
static inline IntWriter *
intwriter_new(int count, bool negative, digit **digits)
{
#ifdef WITH_INT_API
    void *memory;
    PyLongWriter *writer = PyLongWriter_Create(negative, count, &memory);

    if (writer != NULL) {
        *digits = memory;
    }
    return writer;
#else
    PyLongObject *self = _PyLong_New(count);

    if (self == NULL) {
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030C0000
    if (negative) {
        self->long_value.lv_tag |= 2;
    }
    *digits = self->long_value.ob_digit;
#else
    if (negative) {
        Py_SET_SIZE(self, -count);
    }
    *digits = self->ob_digit;
#endif
    return self;
#endif
}

static inline PyObject *
intwriter_finish(IntWriter *writer)
{
#ifdef WITH_INT_API
    return PyLongWriter_Finish(writer);
#else
    return (PyObject *)writer;
#endif
}

#endif
