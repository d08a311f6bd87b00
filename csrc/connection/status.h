/* What this side is doing, told without the GIL. */
#ifndef EXECNET_STATUS_H
#define EXECNET_STATUS_H

#include "connection/connection.h"

/* Without the GIL, in the reader role: answer the STATUS messages that come next, as far as that
   takes no waiting. *left: there is something for send_what_is_left. */
void status_answer(ConnectionObject *connection, bool *left);

#endif
