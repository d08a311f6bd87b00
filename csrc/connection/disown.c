/* A connection in a forked child, whose parent it belongs to. */
#include "connection/disown.h"

#include "connection/tasks.h"
#include "connection/waking.h"

void
disown(ConnectionObject *connection)
{
    connection->disowned = true;
    reading_disown(&connection->reading);
    writing_disown(&connection->writing);
    tasks_disown(connection);
    atomic_store(&connection->question, NULL);
    atomic_store(&connection->asked, 0);
    waking_close_waker(connection);
    if (connection->sentinel != NULL) {
        sentinel_forget(connection->sentinel);
        connection->sentinel = NULL;
    }
}

bool
disown_if_forked(ConnectionObject *connection)
{
    if (!connection->disowned && fork_is_unsettled(connection->fork_mark)) {
        disown(connection);
    }
    return connection->disowned;
}
