/* Who writes to a connection, and what is left to be written: a state machine. writing.c says what
   always holds. No Python.h and no system call here but the lock's.

   Each function is one transition. The caller does at once what its result asks for, and wakes
   those in `told`. */
#ifndef EXECNET_WRITING_H
#define EXECNET_WRITING_H

#include "connection/sleeper.h"

enum { WRITING_SMALL = 9 };

/* A message without payload, left by a thread that must not wait. The machine has its memory until
   writing_take_small gives it back. */
typedef struct WritingSmall {
    struct WritingSmall *next;
    char bytes[WRITING_SMALL];
} WritingSmall;

/* A thread that writes, or waits for its turn. */
typedef struct WritingThread {
    Sleeper sleeper; /* first: a told Sleeper is the thread */
    struct WritingThread *next;
    bool waits; /* is in the list */
    bool sleeps;
    bool ends; /* wants to close the descriptor: not its turn before the helper has ended */
} WritingThread;

typedef enum {
    HELPER_NONE,
    HELPER_STARTING, /* for small messages: a thread is about to start it, and may fail */
    HELPER_THERE,
} WritingHelper;

typedef struct {
    Mutex lock;
    WritingThread *writer;   /* whose turn it is, NULL: nobody's */
    WritingThread *waiting;  /* in the order in which they came */
    WritingThread *kept_for; /* the one of these whose turn comes next, NULL: whoever comes first */
    WritingThread helper;
    unsigned
        overtaken; /* messages of others since the first of the threads that wait could write */
    WritingSmall *small, *last_small; /* in the order in which they came */
    WritingHelper helps;
    bool alone;      /* no helper could be had for the small messages */
    bool unfinished; /* a message has begun, and its rest is the helper's */
    bool closed;     /* no message is accepted any more */
    bool failed;     /* nothing can be written any more */
} Writing;

void writing_init(Writing *writing);

/* In a forked child, whose threads are gone. */
void writing_disown(Writing *writing);

typedef enum {
    TURN_WRITE,  /* the thread is the writer */
    TURN_SLEEP,  /* until told */
    TURN_CLOSED, /* it can't be written: the thread has to quit */
} Turn;

typedef enum {
    WANT_MESSAGE, /* to write one */
    WANT_REST, /* to wait until the helper has written the rest of one: then it is the thread's turn
                */
    WANT_END,  /* to close the descriptor, see writing_end */
} Want;

/* What a thread does now that wants its turn. */
Turn writing_next(Writing *writing, WritingThread *thread, Want want);

/* Whether it is the thread's turn without any waiting. */
bool writing_try(Writing *writing, WritingThread *thread);

/* The same for a thread without the GIL: also where the turn is kept for one that may wait for it.
 */
bool writing_try_now(Writing *writing, WritingThread *thread);

/* The thread has slept, for whatever reason it stopped. Whether a wake-up is on its way, which it
   has to take. */
bool writing_woke(Writing *writing, WritingThread *thread);

/* The writer goes on under another record. */
void writing_rename(Writing *writing, WritingThread *from, WritingThread *to);

typedef enum {
    LEAVE_DONE,  /* the thread is not the writer any more */
    LEAVE_SMALL, /* it still is: small messages are left; write those for which there is room */
    LEAVE_START_HELPER, /* it is not, and has to start the helper */
} Leave;

/* The writer has nothing more to write; with `full` there is no room for small messages. */
Leave writing_leave(Writing *writing, WritingThread *thread, bool full, Told *told);

/* The thread waits no longer: a signal handler is to run. Never LEAVE_SMALL. */
Leave writing_quit(Writing *writing, WritingThread *thread, Told *told);

typedef enum {
    HAND_DONE,
    HAND_START,   /* and the thread has to start the helper */
    HAND_NOT_NOW, /* another thread is starting the helper, and may fail: the thread writes on */
} Hand;

/* A signal came in the middle of the writer's message: its turn is the helper's now, which writes
   the rest. */
Hand writing_hand_over(Writing *writing, WritingThread *thread);

/* The helper that was to be started can't be. After writing_hand_over the caller is the writer
   again, and writes the rest itself; else the small messages stay for whoever writes next. */
void writing_no_helper(Writing *writing, WritingThread *thread, Told *told);

/* Nothing can be written any more. The caller stays the writer. */
void writing_fail(Writing *writing);

/* ---- small messages ---- */

typedef enum {
    BEHIND_LEFT,  /* whoever writes next takes it along */
    BEHIND_WRITE, /* nobody does: the thread is the writer, as after LEAVE_SMALL */
    BEHIND_LOST,  /* it can't be written; its memory is the caller's */
} Behind;

/* Leave a message behind without waiting. */
Behind writing_leave_behind(Writing *writing, WritingThread *thread, WritingSmall *small);

/* As the writer: the next small message, to be written now (or dropped, after writing_fail). NULL:
   there is none. */
WritingSmall *writing_take_small(Writing *writing);

/* ---- the helper: a thread of the connection's own ---- */

typedef enum {
    HELP_REST,  /* it is the writer, and writes the rest of the message */
    HELP_SMALL, /* it is the writer, as after LEAVE_SMALL */
    HELP_END,   /* there is nothing left to do, and no helper any more */
} Help;

/* What the helper does now. Then it leaves as any writer does; if small messages are still left, it
   waits for room and asks again. */
Help writing_help(Writing *writing, Told *told);

/* ---- the end ---- */

/* Accept no message any more. */
void writing_close(Writing *writing);

/* The writer, as after LEAVE_SMALL with nothing small left, wants to close the descriptor: it is no
   longer the writer if that is LEAVE_DONE, and nobody will ever write. Else nothing has changed. */
Leave writing_end(Writing *writing, WritingThread *thread, Told *told);

#endif
