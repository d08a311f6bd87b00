/* A connection in a forked child, whose parent it belongs to. */
#ifndef EXECNET_DISOWN_H
#define EXECNET_DISOWN_H

#include "connection/connection.h"

/* Let go of it: its threads are gone, and what its locks were held for with them. */
void disown(ConnectionObject *connection);

/* With the GIL, before anything else is done with a connection: whether this is a forked child, in
   which it is disowned then, also before any hook of ours. */
bool disown_if_forked(ConnectionObject *connection);

#endif
