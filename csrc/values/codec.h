/* What one gateway_base module and its values belong to. */
#ifndef EXECNET_CODEC_H
#define EXECNET_CODEC_H

#include "values/spare.h"

enum {
    KEY_CACHE_SLOTS = 256,
    KEY_CACHE_LONGEST = 32,
};

/* Short dictionary keys seen lately: the same few come in message after message. Entries may be
 * NULL. */
typedef struct {
    PyObject *keys[KEY_CACHE_SLOTS];
} KeyCache;

/* Made by gateway_base from its own globals, so that a value raises the very exceptions of the
   module that was asked, even where two such modules live in one process (a shipped text as
   __main__, and the import). */
typedef struct {
    PyObject_HEAD
    PyObject *names; /* the gateway module's globals */
    PyObject *dump_error;
    PyObject *load_error;
    PyTypeObject *channel_type;
    /* Dicts that are empty as long as nobody has changed how values are written. */
    PyObject *changes, *dispatch;
    PyObject *str_found_within, *str_gateway, *str_id, *str_new, *str_read, *str_reducers,
        *str_version;
#ifdef Py_GIL_DISABLED
    Spares key_caches;
#else
    KeyCache key_cache;
#endif
} CodecObject;

/* Whether what is raised says of bytes that they are no value. */
bool codec_finds_unreadable(const CodecObject *codec);

/* What a codec's names have under `name` now, owned; KeyError where they have nothing. */
PyObject *codec_name(PyObject *names, const char *name);

#ifdef Py_GIL_DISABLED
/* NULL is no mistake. */
void codec_free_keys(KeyCache *cache);
#endif

/* Limits that both cores share (gateway_base.py has the same names). */

/* Containers inside containers a writer accepts; also tuples inside a hashed tuple a reader
 * accepts. */
#define MAX_DEPTH 400
/* List elements one value may claim without ever assigning them. */
#define MAX_UNASSIGNED 65536

#endif
