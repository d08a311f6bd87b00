/* Who reads a connection, what has arrived on its queues, and which threads wait for it: a state
   machine. reading.c says what always holds. No Python.h and no system call here but the lock's.

   Each function is one transition. The caller does at once what its result asks for, and wakes
   those in `told`. */
#ifndef EXECNET_READING_H
#define EXECNET_READING_H

#include "connection/sleeper.h"

/* An item that has arrived; the machine only keeps it, as it keeps all objects. */
typedef struct {
    void *object;
    bool built;
} ReadingItem;

typedef enum {
    CALLBACK_NONE,
    CALLBACK_DRAINING, /* a thread delivers what was queued; what arrives is queued after it */
    CALLBACK_DIRECT,   /* what arrives goes to the callback */
} ReadingCallback;

/* What has arrived on one channel and was not yet taken, in a ring of `capacity`, a power of 2. */
typedef struct {
    ReadingItem *items;
    size_t capacity, first, count;
    bool ended; /* nothing more arrives */
    ReadingCallback callback;
    void *function; /* of the callback */
    void *marker;   /* what it is called with last; NULL: that was taken, or there is no callback */
    bool calling;   /* the receiver is in the function: the marker comes after that */
} ReadingQueue;

typedef enum {
    THREAD_AWAKE,    /* on its way to its next transition */
    THREAD_AWAY,     /* the receiver only: runs Python code, for any length of time */
    THREAD_ASLEEP,   /* until it is told */
    THREAD_WATCHING, /* until it is told, or for READING_ALARM_MS: then it looks again */
    THREAD_POLLING,  /* holds the role and sleeps over the descriptor, until it is told */
} ReadingState;

enum { READING_ALARM_MS = 1 };

/* The receiver, or a thread that waits for something of a queue. */
typedef struct ReadingThread {
    Sleeper sleeper;     /* first: a told Sleeper is the thread */
    ReadingQueue *queue; /* NULL: the receiver */
    bool for_end;        /* waits for the queue's end, not for an item */
    bool can_read;       /* has what it takes to be woken while it polls */
    unsigned long ident; /* for reading_list */
    /* The machine's: */
    struct ReadingThread *next;
    ReadingState state;
    bool watches;  /* it takes the role when nobody used that for a while */
    unsigned seen; /* the uses when it last looked */
} ReadingThread;

typedef struct {
    Mutex lock;
    ReadingThread *reader;  /* the thread that has the role; NULL: it is free */
    ReadingThread *waiting; /* all that wait, in the order in which they came */
    ReadingThread receiver;
    bool yields;      /* the receiver has the role, but others may take it when it is long away */
    size_t callbacks; /* queues whose items go to a callback */
    unsigned uses;    /* how often the role was taken */
    bool stopping;    /* the receiver wants the role for good */
    bool stopped;     /* and has told everybody: nobody waits any more */
    void (*hold)(void *object);
} Reading;

/* `reading`, all zeros, and a zeroed queue need no other beginning. `hold` keeps an object for
   whoever gets it, with the lock held. */
void reading_init(Reading *reading, void (*hold)(void *object));

/* In a forked child, whose threads are gone: nobody reads, waits or is waited for. */
void reading_disown(Reading *reading);

/* ---- queues ---- */

typedef enum {
    ARRIVAL_QUEUED,
    ARRIVAL_IS_FOR_CALLBACK, /* not queued: the receiver calls */
    ARRIVAL_TOO_LATE,        /* not queued: the queue has ended */
    ARRIVAL_NEEDS_ROOM,      /* not queued: reading_enlarge, and try again */
} Arrival;

Arrival reading_arrive(Reading *reading, ReadingQueue *queue, ReadingItem item, Told *told);

/* As that, by the receiver: with ARRIVAL_IS_FOR_CALLBACK it is calling the function, which it
   holds, until reading_called. */
Arrival reading_arrive_to_call(Reading *reading, ReadingQueue *queue, ReadingItem item,
                               void **function, Told *told);

/* The function has returned. Whether the queue has ended: then the marker may have been left to the
   receiver. */
bool reading_called(Reading *reading, ReadingQueue *queue);

/* An item that was taken is the next one again, of an ended queue, too; ARRIVAL_NEEDS_ROOM or
 * ARRIVAL_QUEUED. */
Arrival reading_give_back(Reading *reading, ReadingQueue *queue, ReadingItem item, Told *told);

/* Give the queue a larger ring; returns the memory that is not used any more. */
ReadingItem *reading_enlarge(Reading *reading, ReadingQueue *queue, ReadingItem *larger,
                             size_t capacity);

typedef enum {
    TAKE_ITEM,
    TAKE_END,
    TAKE_NONE,
} Take;

/* The next item, without waiting. */
Take reading_take(Reading *reading, ReadingQueue *queue, ReadingItem *item);

/* Nothing more arrives; a callback is counted off. False if that was so before. */
bool reading_end(Reading *reading, ReadingQueue *queue, Told *told);

/* As that, where there is no callback to be told. False if there is one: nothing was done. */
bool reading_end_plain(Reading *reading, ReadingQueue *queue, Told *told);

/* A thread begins to give the queued items to a callback, whose objects are the queue's from then
   on. False if there is one already. */
bool reading_begin_callback(Reading *reading, ReadingQueue *queue, void *function, void *marker);

/* The next of them. TAKE_NONE: all are delivered, and from here on what arrives goes to the
   callback. */
Take reading_next_for_callback(Reading *reading, ReadingQueue *queue, ReadingItem *item);

/* The thread gave up: as if there had been no callback. What it consists of is the caller's. */
void reading_abandon_callback(Reading *reading, ReadingQueue *queue, void **function,
                              void **marker);

/* The function, held; NULL where there is no callback. */
void *reading_function(Reading *reading, const ReadingQueue *queue);

/* The marker of a callback that is not called any more: whoever gets it calls with that. NULL where
   it was taken, or another thread is to look when it has called. */
void *reading_take_marker(Reading *reading, ReadingQueue *queue);

/* ---- a thread that waits ---- */

typedef enum {
    NEXT_TAKE_ITEM, /* here it is: the thread waits no longer */
    NEXT_TAKE_END,  /* the queue has ended: the thread waits no longer */
    NEXT_READ,      /* the thread has the role: do what was read, then poll and read */
    NEXT_SLEEP,     /* until told */
    NEXT_WATCH,     /* until told, or the alarm */
} ReadingNext;

/* The thread, with its upper fields filled in, begins to wait: what it does now. */
ReadingNext reading_enter(Reading *reading, ReadingThread *thread, ReadingItem *item, Told *told);

/* What it does then, each time it has slept. */
ReadingNext reading_next(Reading *reading, ReadingThread *thread, ReadingItem *item, Told *told);

/* Holding the role, with nothing read that is not done: whether the thread may sleep over the
   descriptor. False: look at reading_next. If nobody tells it meanwhile, it has the role still. */
bool reading_poll(Reading *reading, ReadingThread *thread);

/* The thread has slept or polled, for whatever reason it stopped. Whether a wake-up is on its way,
   which it has to take. */
bool reading_woke(Reading *reading, ReadingThread *thread);

/* What comes next is the receiver's. */
void reading_hand_over(Reading *reading, ReadingThread *thread, Told *told);

/* The thread waits no longer, whatever it has been told meanwhile: its time is over, or a signal
   handler is to run. */
void reading_quit(Reading *reading, ReadingThread *thread, Told *told);

/* One that waits, for who asks. */
typedef struct {
    unsigned long ident;
    const ReadingQueue *queue;
    bool for_end;
} ReadingWaiter;

/* All that wait, as far as there is room; how many. */
size_t reading_list(Reading *reading, ReadingWaiter *to, size_t most);

/* ---- the receiver ---- */

/* What the receiver does now: NEXT_READ, NEXT_SLEEP, NEXT_WATCH, or NEXT_TAKE_END in a forked
   child. */
ReadingNext reading_receiver_next(Reading *reading);

bool reading_receiver_woke(Reading *reading);

/* The receiver has run Python code: whether it has the role, still or again. Else
   reading_receiver_next says what it does. */
bool reading_receiver_back(Reading *reading);

/* The receiver, in the role, has done what was read: leave the role to those that wait, where that
   is better. */
void reading_receiver_done(Reading *reading, Told *told);

/* The receiver, in the role, is about to run Python code. Nobody reads meanwhile; if it yields, not
   before READING_ALARM_MS are over. */
void reading_receiver_away(Reading *reading, bool yields, Told *told);

/* The receiver is about to end: from when it has the role (reading_receiver_next), it keeps it. */
void reading_stop(Reading *reading, Told *told);

/* Nobody waits from here on. */
void reading_stopped(Reading *reading, Told *told);

#endif
