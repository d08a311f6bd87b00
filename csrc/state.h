/* The module's state: one module, everything it needs in its own. Where the build defines
   CORE_HAS_VALUES_ONLY it has no connection/ and io/, but only Codec. */
#ifndef EXECNET_STATE_H
#define EXECNET_STATE_H

#include "pycompat.h"

#ifndef CORE_HAS_VALUES_ONLY
#include "io/forked.h"

#include <stdatomic.h>
#endif
#include <stdbool.h>
#include <stdint.h>

/* For what is called seldom: inlined, it would have its frequent caller save registers for it. And
   for what has a frequent caller and a rare one. */
#ifdef __GNUC__
#define NEVER_INLINE __attribute__((noinline))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define NEVER_INLINE
#define ALWAYS_INLINE inline
#endif

typedef struct {
    PyTypeObject *codec_type;
    PyTypeObject *channel_type;
    PyTypeObject *itemqueue_type;
    PyTypeObject *connection_type;
#ifndef CORE_HAS_VALUES_ONLY
    atomic_ulong
        main_thread; /* its ident, as gateway_base says: the one that runs signal handlers */
    ForkMark fork_mark;
    atomic_int helpers;      /* threads of sending.c that will use the interpreter again */
    PyObject *thread_module; /* _thread, and the name of what starts its threads */
    PyObject *starter_name;
#endif
} ModuleState;

ModuleState *module_state(PyObject *module);

#endif
