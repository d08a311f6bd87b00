/* The type Codec: the value writer and reader as Python sees them, bound to one gateway_base
 * module. */
#include "types.h"
#include "values/codec.h"
#include "values/dump.h"
#include "values/load.h"

/* ---- arguments ---- */

/* Sort positional and keyword arguments into `values` by the names' order; absent ones stay NULL.
 */
static int
sort_arguments(const char *function, const char *const *names, Py_ssize_t required, Py_ssize_t most,
               PyObject *const *args, Py_ssize_t count, PyObject *keywords, PyObject **values)
{
    if (count > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd argument%s (%zd given)", function,
                     most, most == 1 ? "" : "s", count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < most; i++) {
        values[i] = i < count ? args[i] : NULL;
    }
    Py_ssize_t named = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);
    for (Py_ssize_t k = 0; k < named; k++) {
        PyObject *name = PyTuple_GET_ITEM(keywords, k);
        Py_ssize_t i = 0;
        while (i < most && PyUnicode_CompareWithASCIIString(name, names[i]) != 0) {
            i++;
        }
        if (i == most || values[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got %s argument '%U'", function,
                         i == most ? "an unexpected keyword" : "multiple values for", name);
            return -1;
        }
        values[i] = args[count + k];
    }
    for (Py_ssize_t i = 0; i < required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s' (pos %zd)", function,
                         names[i], i + 1);
            return -1;
        }
    }
    return 0;
}

/* A truth value; absent means `otherwise`. */
static int
truth(PyObject *value, bool otherwise, bool *result)
{
    int is_true = value == NULL ? otherwise : PyObject_IsTrue(value);

    *result = is_true > 0;
    return is_true < 0 ? -1 : 0;
}

static int
truth_of_attribute(PyObject *object, const char *name, bool *result)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value == NULL) {
        return -1;
    }
    int outcome = truth(value, false, result);
    Py_DECREF(value);
    return outcome;
}

/* None, a tuple (py2str_as_py3str, py3str_as_py2str), or an object with these attributes. */
static int
options_of_strconfig(PyObject *strconfig, LoadOptions *options)
{
    if (strconfig == NULL || strconfig == Py_None) {
        options->py2str_as_py3str = true;
        options->py3str_as_py2str = false;
        return 0;
    }
    if (PyTuple_CheckExact(strconfig) && PyTuple_GET_SIZE(strconfig) == 2) {
        if (truth(PyTuple_GET_ITEM(strconfig, 0), true, &options->py2str_as_py3str) < 0) {
            return -1;
        }
        return truth(PyTuple_GET_ITEM(strconfig, 1), false, &options->py3str_as_py2str);
    }
    if (truth_of_attribute(strconfig, "py2str_as_py3str", &options->py2str_as_py3str) < 0) {
        return -1;
    }
    return truth_of_attribute(strconfig, "py3str_as_py2str", &options->py3str_as_py2str);
}

static int
options_of_channel(PyObject *channelfactory, PyObject *strconfig, LoadOptions *options)
{
    options->channels = channelfactory == Py_None ? NULL : channelfactory;
    return options_of_strconfig(strconfig, options);
}

bool
codec_finds_unreadable(const CodecObject *codec)
{
    return PyErr_ExceptionMatches(codec->load_error) || PyErr_ExceptionMatches(PyExc_EOFError);
}

PyObject *
codec_name(PyObject *names, const char *name)
{
    PyObject *key = PyUnicode_FromString(name);
    if (key == NULL) {
        return NULL;
    }
    PyObject *value;
    if (PyDict_GetItemRef(names, key, &value) == 0) {
        PyErr_Format(PyExc_KeyError, "a codec's names need %U", key);
    }
    Py_DECREF(key);
    return value;
}

/* The version byte of today: the gateway module's, which may be replaced. Owned. */
static PyObject *
current_version(CodecObject *codec)
{
    PyObject *version;

    if (PyDict_GetItemRef(codec->names, codec->str_version, &version) < 0) {
        return NULL;
    }
    if (version == NULL || !PyBytes_CheckExact(version)) {
        PyErr_SetString(PyExc_TypeError, "DUMPFORMAT_VERSION must be bytes");
        Py_CLEAR(version);
    }
    return version;
}

/* ---- methods ---- */

/* The one argument `obj`, borrowed. */
static inline PyObject *
only_argument(const char *function, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"obj"};
    PyObject *value;

    if (count == 1 && keywords == NULL) {
        return args[0];
    }
    return sort_arguments(function, names, 1, 1, args, count, keywords, &value) < 0 ? NULL : value;
}

static PyObject *
dumps_versioned(CodecObject *codec, PyObject *value)
{
    PyObject *version = current_version(codec);
    if (version == NULL) {
        return NULL;
    }
    PyObject *bytes =
        dump_to_bytes(codec, value, NULL, PyBytes_AS_STRING(version), PyBytes_GET_SIZE(version));
    Py_DECREF(version);
    return bytes;
}

PyDoc_STRVAR(dumps_doc, "dumps($self, obj)\n--\n\n"
                        "The bytes of obj, version byte first. Raises DumpError naming what can't "
                        "be serialized and where it is.");

static PyObject *
codec_dumps(CodecObject *codec, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    PyObject *value = only_argument("dumps", args, count, keywords);
    return value == NULL ? NULL : dumps_versioned(codec, value);
}

PyDoc_STRVAR(dumps_internal_doc,
             "dumps_internal($self, obj, gateway=None)\n--\n\n"
             "The bytes of obj as message payloads have them: without version byte. DumpError for "
             "channels inside that do not belong to the gateway, if one is given.");

static PyObject *
codec_dumps_internal(CodecObject *codec, PyObject *const *args, Py_ssize_t count,
                     PyObject *keywords)
{
    static const char *const names[] = {"obj", "gateway"};
    PyObject *values[2];

    if (sort_arguments("dumps_internal", names, 1, 2, args, count, keywords, values) < 0) {
        return NULL;
    }
    return dump_to_bytes(codec, values[0], values[1] == Py_None ? NULL : values[1], "", 0);
}

PyDoc_STRVAR(dump_doc, "dump($self, byteio, obj)\n--\n\n"
                       "Write the bytes of obj to byteio, in one call of its write method.");

static PyObject *
codec_dump(CodecObject *codec, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"byteio", "obj"};
    PyObject *values[2];

    if (sort_arguments("dump", names, 2, 2, args, count, keywords, values) < 0) {
        return NULL;
    }
    PyObject *bytes = dumps_versioned(codec, values[1]);
    if (bytes == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_CallMethod(values[0], "write", "O", bytes);
    Py_DECREF(bytes);
    if (result == NULL) {
        return NULL;
    }
    Py_DECREF(result);
    Py_RETURN_NONE;
}

static PyObject *
loads_versioned(CodecObject *codec, const char *data, Py_ssize_t size, const LoadOptions *options)
{
    PyObject *version = current_version(codec);
    if (version == NULL) {
        return NULL;
    }
    bool right =
        size > 0 && PyBytes_GET_SIZE(version) == 1 && data[0] == PyBytes_AS_STRING(version)[0];
    Py_DECREF(version);
    if (right) {
        return load_value(codec, data + 1, size - 1, options);
    }
    if (size == 0) {
        PyErr_SetString(PyExc_EOFError, "no bytes, not even a version");
    } else {
        load_wrong_version(codec, data);
    }
    return NULL;
}

/* Call `load` on the memory of a bytes object. What else holds bytes is copied first: it may change
 * while they are read. */
static PyObject *
load_object(CodecObject *codec, PyObject *data, const LoadOptions *options,
            PyObject *(*load)(CodecObject *, const char *, Py_ssize_t, const LoadOptions *))
{
    Py_buffer view;

    if (PyBytes_CheckExact(data)) {
        return load(codec, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), options);
    }
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(view.buf, view.len);
    PyBuffer_Release(&view);
    if (bytes == NULL) {
        return NULL;
    }
    PyObject *value = load(codec, PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes), options);
    Py_DECREF(bytes);
    return value;
}

PyDoc_STRVAR(loads_doc,
             "loads($self, bytestring, py2str_as_py3str=False, py3str_as_py2str=False)\n--\n\n"
             "The value of what dumps gave. Raises LoadError for bytes that are no value, "
             "EOFError where they end early.");

static PyObject *
codec_loads(CodecObject *codec, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"bytestring", "py2str_as_py3str", "py3str_as_py2str"};
    PyObject *values[3];
    LoadOptions options = {.channels = NULL};

    if (sort_arguments("loads", names, 1, 3, args, count, keywords, values) < 0 ||
        truth(values[1], false, &options.py2str_as_py3str) < 0 ||
        truth(values[2], false, &options.py3str_as_py2str) < 0) {
        return NULL;
    }
    return load_object(codec, values[0], &options, loads_versioned);
}

PyDoc_STRVAR(
    loads_internal_doc,
    "loads_internal($self, bytestring, channelfactory=None, strconfig=None)\n--\n\n"
    "The value of a message's payload. Channels in it come from channelfactory.new(id); strconfig "
    "has py2str_as_py3str and py3str_as_py2str, None means (True, False).");

static PyObject *
codec_loads_internal(CodecObject *codec, PyObject *const *args, Py_ssize_t count,
                     PyObject *keywords)
{
    static const char *const names[] = {"bytestring", "channelfactory", "strconfig"};
    PyObject *values[3];
    LoadOptions options;

    if (sort_arguments("loads_internal", names, 1, 3, args, count, keywords, values) < 0 ||
        options_of_channel(values[1], values[2], &options) < 0) {
        return NULL;
    }
    return load_object(codec, values[0], &options, load_value);
}

PyDoc_STRVAR(
    load_doc,
    "load($self, io, py2str_as_py3str=False, py3str_as_py2str=False)\n--\n\n"
    "The next value of a stream with read(n), which is then right after it. Raises as loads.");

static PyObject *
codec_load(CodecObject *codec, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"io", "py2str_as_py3str", "py3str_as_py2str"};
    PyObject *values[3];
    LoadOptions options = {.channels = NULL};

    if (sort_arguments("load", names, 1, 3, args, count, keywords, values) < 0 ||
        truth(values[1], false, &options.py2str_as_py3str) < 0 ||
        truth(values[2], false, &options.py3str_as_py2str) < 0) {
        return NULL;
    }
    PyObject *version = current_version(codec);
    if (version == NULL) {
        return NULL;
    }
    PyObject *value = load_from_stream(codec, values[0], version, &options);
    Py_DECREF(version);
    return value;
}

PyDoc_STRVAR(
    load_stream_doc,
    "load_stream($self, stream, channelfactory=None, strconfig=None, versioned=False)\n--\n\n"
    "The next value of a stream, like loads_internal; versioned: after a version byte.");

static PyObject *
codec_load_stream(CodecObject *codec, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"stream", "channelfactory", "strconfig", "versioned"};
    PyObject *values[4];
    LoadOptions options;
    bool versioned;
    PyObject *version = NULL;

    if (sort_arguments("load_stream", names, 1, 4, args, count, keywords, values) < 0 ||
        options_of_channel(values[1], values[2], &options) < 0 ||
        truth(values[3], false, &versioned) < 0) {
        return NULL;
    }
    if (versioned && (version = current_version(codec)) == NULL) {
        return NULL;
    }
    PyObject *value = load_from_stream(codec, values[0], version, &options);
    Py_XDECREF(version);
    return value;
}

/* A method that takes keywords has another C signature than PyCFunction; the detour satisfies the
 * compiler. */
#define KEYWORD_METHOD(function)                                                                   \
    (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

static PyMethodDef codec_methods[] = {
    {"dumps", KEYWORD_METHOD(codec_dumps), dumps_doc},
    {"dump", KEYWORD_METHOD(codec_dump), dump_doc},
    {"loads", KEYWORD_METHOD(codec_loads), loads_doc},
    {"load", KEYWORD_METHOD(codec_load), load_doc},
    {"dumps_internal", KEYWORD_METHOD(codec_dumps_internal), dumps_internal_doc},
    {"loads_internal", KEYWORD_METHOD(codec_loads_internal), loads_internal_doc},
    {"load_stream", KEYWORD_METHOD(codec_load_stream), load_stream_doc},
    {NULL, NULL, 0, NULL},
};

/* ---- the object ---- */

static PyObject *
named_exception(PyObject *names, const char *name)
{
    PyObject *value = codec_name(names, name);

    if (value != NULL && !PyExceptionClass_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be an exception class, not %.200s", name,
                     Py_TYPE(value)->tp_name);
        Py_CLEAR(value);
    }
    return value;
}

static PyTypeObject *
named_class(PyObject *names, const char *name)
{
    PyObject *value = codec_name(names, name);

    if (value != NULL && !PyType_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be type, not %.200s", name, Py_TYPE(value)->tp_name);
        Py_CLEAR(value);
    }
    return (PyTypeObject *)value;
}

static PyObject *
named_dict(PyObject *names, const char *name)
{
    PyObject *value = codec_name(names, name);

    if (value != NULL && !PyDict_CheckExact(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be a dict, not %R", name, value);
        Py_CLEAR(value);
    }
    return value;
}

static int
codec_fill(CodecObject *codec, PyObject *names)
{
    codec->names = Py_NewRef(names);
    codec->dump_error = named_exception(names, "DumpError");
    if (codec->dump_error == NULL) {
        return -1;
    }
    codec->load_error = named_exception(names, "LoadError");
    if (codec->load_error == NULL) {
        return -1;
    }
    codec->channel_type = named_class(names, "Channel");
    if (codec->channel_type == NULL) {
        return -1;
    }
    codec->changes = named_dict(names, "_changes");
    if (codec->changes == NULL) {
        return -1;
    }
    codec->dispatch = named_dict(names, "_dispatch");
    if (codec->dispatch == NULL) {
        return -1;
    }
    codec->str_found_within = PyUnicode_InternFromString("_found_within");
    codec->str_gateway = PyUnicode_InternFromString("gateway");
    codec->str_id = PyUnicode_InternFromString("id");
    codec->str_new = PyUnicode_InternFromString("new");
    codec->str_read = PyUnicode_InternFromString("read");
    codec->str_reducers = PyUnicode_InternFromString("_reducers");
    codec->str_version = PyUnicode_InternFromString("DUMPFORMAT_VERSION");
    return codec->str_found_within && codec->str_gateway && codec->str_id && codec->str_new &&
                   codec->str_read && codec->str_reducers && codec->str_version
               ? 0
               : -1;
}

PyDoc_STRVAR(
    codec_doc,
    "Codec(names)\n--\n\n"
    "Writer and reader of values for the gateway module whose globals are given: its DumpError, "
    "LoadError, Channel, _changes and _dispatch now, its DUMPFORMAT_VERSION and _reducers at each "
    "call.");

static PyObject *
codec_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names_of[] = {"names", NULL};
    PyObject *names;

    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!:Codec", names_of, &PyDict_Type, &names)) {
        return NULL;
    }
    CodecObject *codec = (CodecObject *)type->tp_alloc(type, 0);
    if (codec == NULL) {
        return NULL;
    }
    /* Until it is whole nobody can find it. */
    PyObject_GC_UnTrack(codec);
    if (codec_fill(codec, names) < 0) {
        Py_DECREF(codec);
        return NULL;
    }
    PyObject_GC_Track(codec);
    return (PyObject *)codec;
}

/* There is no tp_clear: the dict and the classes break the cycles through a codec, and finalizers
 * that run while they do may still call it. */
static int
codec_traverse(CodecObject *codec, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(codec));
    Py_VISIT(codec->names);
    Py_VISIT(codec->dump_error);
    Py_VISIT(codec->load_error);
    Py_VISIT(codec->channel_type);
    Py_VISIT(codec->changes);
    Py_VISIT(codec->dispatch);
    return 0;
}

static void
forget_keys(KeyCache *cache)
{
    for (int i = 0; i < KEY_CACHE_SLOTS; i++) {
        Py_CLEAR(cache->keys[i]);
    }
}

#ifdef Py_GIL_DISABLED
void
codec_free_keys(KeyCache *cache)
{
    if (cache != NULL) {
        forget_keys(cache);
        PyMem_Free(cache);
    }
}

static void
free_what_is_kept(CodecObject *codec)
{
    void *memory;

    while ((memory = spare_next(&codec->key_caches)) != NULL) {
        codec_free_keys(memory);
    }
}
#else
static void
free_what_is_kept(CodecObject *codec)
{
    forget_keys(&codec->key_cache);
}
#endif

static void
codec_dealloc(CodecObject *codec)
{
    PyTypeObject *type = Py_TYPE(codec);

    PyObject_GC_UnTrack(codec);
    Py_CLEAR(codec->names);
    Py_CLEAR(codec->dump_error);
    Py_CLEAR(codec->load_error);
    Py_CLEAR(codec->channel_type);
    Py_CLEAR(codec->changes);
    Py_CLEAR(codec->dispatch);
    Py_CLEAR(codec->str_found_within);
    Py_CLEAR(codec->str_gateway);
    Py_CLEAR(codec->str_id);
    Py_CLEAR(codec->str_new);
    Py_CLEAR(codec->str_read);
    Py_CLEAR(codec->str_reducers);
    Py_CLEAR(codec->str_version);
    free_what_is_kept(codec);
    type->tp_free(codec);
    Py_DECREF(type);
}

static PyType_Slot codec_slots[] = {
    {Py_tp_doc, (void *)codec_doc},   {Py_tp_new, codec_new},
    {Py_tp_traverse, codec_traverse}, {Py_tp_dealloc, codec_dealloc},
    {Py_tp_methods, codec_methods},   {0, NULL},
};

static PyType_Spec codec_spec = {
    .name = "execnet._core.Codec",
    .basicsize = sizeof(CodecObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = codec_slots,
};

int
codec_add_types(PyObject *module)
{
    ModuleState *state = module_state(module);

    state->codec_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &codec_spec, NULL);
    if (state->codec_type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, state->codec_type);
}
