/* Worlds for the machine of reading.c: threads that wait, as in receiving.c, the receiver, as there
   and in dispatch.c, and those that close, drop and set callbacks, as in queuetype.c. */
#include "explore.h"

#include "connection/reading.h"

#include <stdio.h>
#include <string.h>

enum { QUEUES = 2, PROGRAMS = 4, MESSAGES = 6, OUTSIDE = 0, RECEIVER = 1, FIRST = 2 };

/* ---- what a world is made of ---- */

typedef enum {
    M_NOTHING,
    M_PART, /* of the large message whose last part follows */
    M_ITEM,
    M_CHANNEL_ITEM, /* has a channel inside: takes Python code */
    M_CLOSE,
    M_EXEC,
    M_LET_GO, /* of what another thread let go of while it was looked at: that runs Python code */
    M_STATUS,
    M_TERMINATE,
    M_END, /* of input, or a read error */
} MessageKind;

typedef struct {
    MessageKind kind;
    int queue;
} Message;

typedef enum {
    P_NOTHING,
    P_RECEIVE,
    P_WAITCLOSE,
    P_CLOSE,
    P_DROP,
    P_SETCALLBACK,
    P_PUT,
    P_ASK,
    P_FORK,
} ProgramKind;

enum {
    TIMEOUT = 1,   /* its time may be over */
    SIGNALS = 2,   /* there may be a signal, whose handler may raise */
    CANT_READ = 4, /* there was no descriptor for a waker */
    RAISES = 8,    /* the callback may raise */
    TWICE = 16,    /* receives two items */
    KEPT = 32,     /* is the main thread, and a handler may keep it from what it took */
};

typedef struct {
    ProgramKind kind;
    int queue;
    int flags;
    int inside; /* runs only in a handler of that actor, or in a callback of the receiver */
} Program;

typedef struct {
    const char *name;
    bool is_short;
    Message script[MESSAGES];
    Program programs[PROGRAMS];
    bool receiver_raises; /* a callback in the receiver may end it */
    bool unknown;         /* queue 1 is not registered */
} Spec;

typedef enum {
    IDLE,
    GONE,
    /* A thread that waits. */
    W_SIGNALS,
    W_HANDLER,
    W_NEXT,
    W_DISPATCH,
    W_ENLARGE,
    W_POLL,
    W_POLLING,
    W_POLLED,
    W_TAKE_WAKER,
    W_FILL,
    W_SLEEP,
    W_SLEPT,
    W_TAKE_WAKEUP,
    W_QUIT,
    W_LOOKED,
    W_GIVE_BACK,
    /* The receiver. */
    R_NEXT,
    R_SLEEP,
    R_SLEPT,
    R_TAKE_WAKEUP,
    R_DUE,
    R_FILL,
    R_STATUS,
    R_DISPATCH,
    R_ENLARGE,
    R_AWAY,
    R_PYTHON,
    R_CALLBACK,
    R_MARKER,
    R_BACK,
    R_STOP,
    R_END_QUEUES,
    R_STOPPED,
    R_CLOSE,
    /* Others. */
    X_DROPPED,
    X_UNREGISTERED,
    X_MARKER,
    X_EMPTY,
    X_ENLARGE,
    X_ASK,
    C_NEXT,
    C_CALLBACK,
    C_MARKER,
    C_GIVE_BACK,
    C_ABANDON,
    F_DISOWN,
    F_STOPPED,
    F_QUEUES,
} Place;

static const char *const place_names[] = {
    [IDLE] = "begins",
    [GONE] = "is gone",
    [W_SIGNALS] = "looks for signals",
    [W_HANDLER] = "is in a handler",
    [W_NEXT] = "next",
    [W_DISPATCH] = "does what was read",
    [W_ENLARGE] = "makes room",
    [W_POLL] = "is about to poll",
    [W_POLLING] = "polls",
    [W_POLLED] = "has polled",
    [W_TAKE_WAKER] = "takes the waker",
    [W_FILL] = "reads",
    [W_SLEEP] = "sleeps",
    [W_SLEPT] = "has slept",
    [W_TAKE_WAKEUP] = "takes its wake-up",
    [W_QUIT] = "quits",
    [W_LOOKED] = "has quit",
    [W_GIVE_BACK] = "gives its item back",
    [R_NEXT] = "receiver: next",
    [R_SLEEP] = "receiver: sleeps",
    [R_SLEPT] = "receiver: has slept",
    [R_TAKE_WAKEUP] = "receiver: takes its wake-up",
    [R_DUE] = "receiver: looks what is due",
    [R_FILL] = "receiver: reads",
    [R_STATUS] = "receiver: answers STATUS",
    [R_DISPATCH] = "receiver: does what was read",
    [R_ENLARGE] = "receiver: makes room",
    [R_AWAY] = "receiver: goes away",
    [R_PYTHON] = "receiver: is in Python",
    [R_CALLBACK] = "receiver: is in the callback",
    [R_MARKER] = "receiver: gives the end marker",
    [R_BACK] = "receiver: is back",
    [R_STOP] = "receiver: stops",
    [R_END_QUEUES] = "receiver: ends queues",
    [R_STOPPED] = "receiver: has stopped",
    [R_CLOSE] = "receiver: closes the descriptors",
    [X_DROPPED] = "waits for the end of its callback",
    [X_UNREGISTERED] = "ends its queue",
    [X_MARKER] = "takes the end marker",
    [X_EMPTY] = "empties its queue",
    [X_ENLARGE] = "makes room",
    [X_ASK] = "asks for the callback",
    [C_NEXT] = "takes an item for the callback",
    [C_CALLBACK] = "is in the callback",
    [C_MARKER] = "takes the end marker",
    [C_GIVE_BACK] = "gives the item back",
    [C_ABANDON] = "abandons the callback",
    [F_DISOWN] = "disowns",
    [F_STOPPED] = "disowns: stopped",
    [F_QUEUES] = "disowns: ends queues",
};

typedef struct {
    bool released; /* a binary lock */
    bool is_there;
} Wakeup;

typedef struct {
    ReadingThread thread;
    Told told; /* is about to wake them */
    Wakeup wakeup;
    uint8_t place;
    bool ready, looks, woken, has_alarm; /* how its sleep ended */
    bool raised;                         /* what ends the receiver */
    bool left;                           /* the receiver has left the role to those who wait */
    bool quiet;                          /* nobody has used the role since its watch began */
    bool has_read;
    uint8_t queue; /* that it is at */
    uint8_t received;
} Actor;

typedef enum { DRAIN_NOT, DRAINS, DIRECT } Drain;

typedef struct {
    ReadingQueue arrived;
    ReadingItem ring1[1], ring2[2], ring4[4];
    bool registered, dropped, ended, has_callback, has_marker, marker_given, is_calling;
    bool was_direct; /* and was abandoned */
    uint8_t drain;
    uint8_t functions; /* references to those of callbacks */
    uint8_t last; /* item taken */
} Queue;

typedef enum { FATE_NONE, FATE_QUEUED, FATE_TAKEN, FATE_DROPPED } Fate;

typedef struct {
    Reading reading;
    const ReadingThread *reader; /* in the state before */
    Actor actors[FIRST + PROGRAMS];
    Queue queues[QUEUES];
    uint8_t available, read, done; /* messages, in parts */
    uint8_t fates[MESSAGES + PROGRAMS];
    uint8_t wakers;
    bool receiver_told; /* in the state before */
    bool waker_open, fd_closed, broken, strict, yields, handed_over, stopping, stopped, forked;
} World;

static union {
    World world;
    uint64_t words[(sizeof(World) + 7) / 8];
} memory;
static World *const w = &memory.world;
static const Spec *spec;

/* ---- ghosts: what must be so, told apart from the machine ---- */

static int
actor_number(const Actor *actor)
{
    return (int)(actor - w->actors);
}

static const Program *
program_of(const Actor *actor)
{
    return &spec->programs[actor_number(actor) - FIRST];
}

static bool
is_in_role(const Actor *actor)
{
    switch ((Place)actor->place) {
    case W_DISPATCH:
    case W_ENLARGE:
    case W_POLL:
    case W_POLLING:
    case W_POLLED:
    case W_TAKE_WAKER:
    case W_FILL:
    case R_DUE:
    case R_FILL:
    case R_STATUS:
    case R_DISPATCH:
    case R_ENLARGE:
    case R_AWAY:
    case R_END_QUEUES:
    case R_STOPPED:
    case R_CLOSE:
        return true;
    case R_PYTHON:
        return w->strict;
    default:
        return false;
    }
}

static void
touch(const Actor *actor)
{
    explore_expect(!w->fd_closed, "the descriptor is used after its end");
    explore_expect(!w->strict || actor_number(actor) == RECEIVER,
                   "what follows a message is done before it");
}

static ReadingItem
item_of(int number)
{
    ReadingItem item = {&w->fates[number], true};
    return item;
}

static void
see_taken(Queue *queue, int number)
{
    explore_expect(w->fates[number] == FATE_QUEUED, "an item is taken that is not there");
    explore_expect(number + 1 > queue->last, "an item is taken out of order");
    w->fates[number] = FATE_TAKEN;
    queue->last = (uint8_t)(number + 1);
}

static int
number_of(ReadingItem item)
{
    return (int)((uint8_t *)item.object - w->fates);
}

static void
see_item(Queue *queue, ReadingItem item)
{
    see_taken(queue, number_of(item));
}

/* The role is used: whoever watches begins again. */
static void
see_use(void)
{
    for (int i = 0; i < FIRST + PROGRAMS; i++) {
        w->actors[i].quiet = false;
    }
}

/* The actor takes the role, or has got it from another. */
static void
see_role_taken(Actor *actor, bool was_named)
{
    bool watched = actor->has_alarm && !actor->woken;

    explore_expect(was_named || !watched || actor->quiet, "the role is taken from who uses it");
    explore_expect(!w->yields || actor_number(actor) == RECEIVER || (watched && actor->quiet),
                   "the role is taken before the receiver was long away");
    w->yields = false;
}

static size_t
count_told(const Actor *actor)
{
    size_t count = 0;

    for (const Sleeper *told = actor->told; told != NULL; told = told->next_told) {
        count++;
    }
    return count;
}

static size_t
count_callbacks(void)
{
    size_t count = 0;

    for (int i = 0; i < QUEUES; i++) {
        count += w->queues[i].drain == DIRECT && !w->queues[i].ended;
    }
    return count;
}

static bool
somebody_cannot_read(void)
{
    for (const ReadingThread *at = w->reading.waiting; at != NULL; at = at->next) {
        if (!at->can_read) {
            return true;
        }
    }
    return false;
}

/* ---- parts of the world ---- */

static Step
go(Actor *actor, Place place)
{
    actor->place = (uint8_t)place;
    return STEP_CERTAIN;
}

static void
waker(void)
{
    explore_expect(w->waker_open, "the waker is used when it is closed");
    w->wakers++;
}

static void
wake_first(Actor *actor)
{
    Sleeper *sleeper = actor->told;

    actor->told = sleeper->next_told;
    sleeper->next_told = NULL;
    if (sleeper->by_waker) {
        waker();
    } else {
        Wakeup *wakeup = sleeper->wakeup;
        explore_expect(wakeup->is_there, "a thread is woken that is gone");
        explore_expect(!wakeup->released, "a thread is woken twice");
        wakeup->released = true;
    }
}

static int
last_part(int number)
{
    while (spec->script[number].kind == M_PART) {
        number++;
    }
    return number;
}

/* The message that is due, -1: none. */
static int
due(void)
{
    int last = last_part(w->done);

    return last < w->read && spec->script[last].kind != M_END ? last : -1;
}

static bool
has_input(void)
{
    return w->available > w->read;
}

static void
fill(const Actor *actor)
{
    touch(actor);
    if (w->broken) {
        return; /* The end again. */
    }
    if (spec->script[w->read].kind == M_END) {
        w->broken = true;
        w->read++;
        return;
    }
    while (w->read < w->available && spec->script[w->read].kind != M_END) {
        w->read++;
    }
}

static void
consume(int number)
{
    w->done = (uint8_t)(number + 1);
}

static void
drop_item(int number)
{
    w->fates[number] = FATE_DROPPED;
}

static void
see_arrival(const Actor *actor, Queue *queue, int number, Arrival arrival)
{
    switch (arrival) {
    case ARRIVAL_QUEUED:
        explore_expect(count_told(actor) <= 1, "one item wakes more than one");
        explore_expect(!queue->ended, "an item arrives after the end");
        explore_expect(queue->drain != DIRECT, "an item passes the callback by");
        w->fates[number] = FATE_QUEUED;
        break;
    case ARRIVAL_IS_FOR_CALLBACK:
        explore_expect(queue->drain == DIRECT, "an item is for a callback that is not there");
        break;
    case ARRIVAL_TOO_LATE:
        explore_expect(queue->ended, "an item is too late before the end");
        drop_item(number);
        break;
    case ARRIVAL_NEEDS_ROOM:
        break;
    }
}

static Arrival
arrive(Actor *actor, Queue *queue, int number)
{
    Arrival arrival = reading_arrive(&w->reading, &queue->arrived, item_of(number), &actor->told);

    see_arrival(actor, queue, number, arrival);
    return arrival;
}

static void
hold(void *object)
{
    uint8_t *functions = object;

    explore_expect(w->reading.lock.taken, "a function is held that may go meanwhile");
    explore_expect(*functions > 0, "a function is held that is gone");
    ++*functions;
}

static void
let_go(uint8_t *functions)
{
    explore_expect(*functions > 0, "a function is let go of that is gone");
    --*functions;
}

static Arrival
arrive_to_call(Actor *actor, Queue *queue, int number)
{
    uint8_t before = queue->functions;
    void *function = NULL;
    Arrival arrival = reading_arrive_to_call(&w->reading, &queue->arrived, item_of(number),
                                             &function, &actor->told);
    bool calls = arrival == ARRIVAL_IS_FOR_CALLBACK;

    see_arrival(actor, queue, number, arrival);
    explore_expect(function == (calls ? &queue->functions : NULL), "another function is called");
    explore_expect(queue->functions == before + calls, "a function is called that may go");
    queue->is_calling = queue->is_calling || calls;
    return arrival;
}

static void
enlarge(Queue *queue, size_t seen)
{
    size_t capacity = seen == 0 ? 1 : 2 * seen;
    ReadingItem *larger = capacity == 1   ? queue->ring1
                          : capacity == 2 ? queue->ring2
                                          : queue->ring4;

    explore_expect(capacity <= 4, "the queue is too long for this world");
    const ReadingItem *before = queue->arrived.items;
    bool is_larger = capacity > queue->arrived.capacity;
    explore_expect(reading_enlarge(&w->reading, &queue->arrived, larger, capacity) ==
                       (is_larger ? before : larger),
                   "memory is lost, or given away that is used");
}

static void
end_queue(Actor *actor, Queue *queue)
{
    queue->registered = false;
    bool ends = reading_end(&w->reading, &queue->arrived, &actor->told);
    explore_expect(ends == !queue->ended, "a queue ends twice or not at all");
    queue->ended = true;
}

static bool
is_for_callback(const Queue *queue)
{
    return queue->has_callback && queue->arrived.callback == CALLBACK_DIRECT;
}

/* As that is seen by one who looks, and then does something else: it may have changed. */
static bool
seems_for_callback(const Queue *queue)
{
    bool may_seem = is_for_callback(queue) || queue->was_direct;

    return may_seem && explore_choose(2) == 1;
}

/* The end marker is taken, and the callback called with it. */
static void
take_endmarker(Queue *queue)
{
    void *marker = reading_take_marker(&w->reading, &queue->arrived);

    if (marker == NULL) {
        explore_expect(queue->drain == DRAINS || queue->is_calling || !queue->has_marker,
                       "the end marker is given by nobody");
        return;
    }
    explore_expect(marker == &queue->marker_given, "another end marker is given");
    explore_expect(!queue->is_calling, "the end marker is given before the last item is");
    explore_expect(queue->drain == DIRECT && queue->arrived.count == 0,
                   "the end marker is given before the items");
    explore_expect(!queue->marker_given, "the end marker is given twice");
    queue->has_marker = false;
    queue->marker_given = true;
}

typedef enum { DONE_NOTHING, DONE_ONE, DONE_PYTHON, DONE_NO_ROOM } Done;

/* dispatch_plain, for one message. */
static Done
dispatch_one(Actor *actor)
{
    int number = due();

    touch(actor);
    if (number < 0) {
        return DONE_NOTHING;
    }
    Message message = spec->script[number];
    Queue *queue = &w->queues[message.queue];
    switch (message.kind) {
    case M_ITEM:
    case M_CHANNEL_ITEM:
        if (!queue->registered || (queue->dropped && !queue->has_callback)) {
            drop_item(number);
            break;
        }
        if (message.kind == M_CHANNEL_ITEM || seems_for_callback(queue)) {
            return DONE_PYTHON;
        }
        switch (arrive(actor, queue, number)) {
        case ARRIVAL_IS_FOR_CALLBACK:
            return DONE_PYTHON;
        case ARRIVAL_NEEDS_ROOM:
            actor->queue = (uint8_t)message.queue;
            return DONE_NO_ROOM;
        default:
            break;
        }
        break;
    case M_CLOSE:
        if (queue->registered) {
            if (queue->dropped || (queue->has_callback && explore_choose(2) == 1)) {
                return DONE_PYTHON;
            }
            bool ends = reading_end_plain(&w->reading, &queue->arrived, &actor->told);
            explore_expect(ends != queue->has_callback, "a callback misses the end");
            if (!ends) {
                return DONE_PYTHON;
            }
            queue->registered = false;
            queue->ended = true;
        }
        break;
    default:
        return DONE_PYTHON;
    }
    consume(number);
    return DONE_ONE;
}

/* ---- a thread that waits ---- */

/* A handler raises before the actor has what it took. */
static bool
is_kept_from(Actor *actor, ReadingItem item)
{
    actor->queue = (uint8_t)number_of(item);
    return (program_of(actor)->flags & KEPT) && explore_choose(2) == 1;
}

static Step
give_back(Actor *actor, Place next)
{
    Queue *queue = &w->queues[program_of(actor)->queue];
    int number = actor->queue;

    if (reading_give_back(&w->reading, &queue->arrived, item_of(number), &actor->told) ==
        ARRIVAL_NEEDS_ROOM) {
        enlarge(queue, queue->arrived.capacity);
        return STEP_CERTAIN;
    }
    w->fates[number] = FATE_QUEUED;
    queue->last = (uint8_t)number;
    return go(actor, next);
}

/* The item, or with NULL the end. */
static Step
received(Actor *actor, const ReadingItem *item)
{
    const Program *program = program_of(actor);
    const Queue *queue = &w->queues[program->queue];

    if (item != NULL && is_kept_from(actor, *item)) {
        return go(actor, W_GIVE_BACK);
    }
    if (item == NULL) {
        explore_expect(queue->ended || w->stopped, "an end is received that is none");
    } else {
        explore_expect(program->kind == P_RECEIVE, "who waits for the end takes an item");
        if ((program->flags & TWICE) && actor->received == 0) {
            actor->received = 1;
            return go(actor, IDLE);
        }
    }
    return go(actor, GONE);
}

static Step
begin_to_wait(Actor *actor)
{
    const Program *program = program_of(actor);
    Queue *queue = &w->queues[program->queue];
    ReadingItem item;

    if (program->kind == P_WAITCLOSE) {
        if (queue->arrived.ended) {
            return received(actor, NULL);
        }
    } else if (queue->arrived.count > 0 || queue->arrived.ended) {
        switch (reading_take(&w->reading, &queue->arrived, &item)) {
        case TAKE_ITEM:
            see_item(queue, item);
            return received(actor, &item);
        case TAKE_END:
            explore_expect(queue->arrived.count == 0, "the end is received before the items");
            return received(actor, NULL);
        case TAKE_NONE:
            break;
        }
    }
    memset(&actor->thread, 0, sizeof actor->thread);
    actor->thread.queue = &queue->arrived;
    actor->thread.for_end = program->kind == P_WAITCLOSE;
    actor->thread.sleeper.wakeup = &actor->wakeup;
    actor->wakeup.is_there = true;
    actor->wakeup.released = false;
    actor->thread.can_read = !(program->flags & CANT_READ) && (w->waker_open || !w->reading.stopped);
    w->waker_open = w->waker_open || actor->thread.can_read;
    return go(actor, W_SIGNALS);
}

static Step
leave_wait(Actor *actor, const ReadingItem *item)
{
    explore_expect(!actor->wakeup.released, "a wake-up is left that was not taken");
    memset(&actor->wakeup, 0, sizeof actor->wakeup);
    return received(actor, item);
}

static Step
waiter_next(Actor *actor, bool enters)
{
    Queue *queue = &w->queues[program_of(actor)->queue];
    bool was_named = w->reading.reader == &actor->thread;
    ReadingItem item;

    switch (
        (enters ? reading_enter : reading_next)(&w->reading, &actor->thread, &item, &actor->told)) {
    case NEXT_TAKE_ITEM:
        see_item(queue, item);
        return leave_wait(actor, &item);
    case NEXT_TAKE_END:
        explore_expect(actor->thread.for_end || queue->arrived.count == 0,
                       "the end is received before the items");
        return leave_wait(actor, NULL);
    case NEXT_READ:
        explore_expect(actor->thread.can_read, "a thread reads that can't");
        explore_expect(!w->stopping, "a thread reads after the stop");
        explore_expect(!w->forked, "a child reads what is the parent's");
        if (!actor->has_read) {
            see_role_taken(actor, was_named);
        }
        actor->has_read = true;
        actor->has_alarm = false;
        return go(actor, W_DISPATCH);
    case NEXT_SLEEP:
        explore_expect(actor->thread.state == THREAD_ASLEEP, "a thread sleeps that is to watch");
        explore_expect(was_named || !actor->has_alarm || actor->quiet,
                       "a thread watches no longer, though the role is used");
        actor->has_read = actor->has_alarm = false;
        return go(actor, W_SLEEP);
    case NEXT_WATCH:
        explore_expect(actor->has_alarm || w->reading.yields, "a thread watches for nothing");
        actor->has_read = false;
        actor->has_alarm = actor->quiet = true;
        return go(actor, W_SLEEP);
    }
    return STEP_BLOCKED;
}

static bool
is_main_thread(const Actor *actor)
{
    return (program_of(actor)->flags & SIGNALS) != 0;
}

/* The thread is about to get what it waits for. */
static bool
is_there(const Actor *actor)
{
    const ReadingThread *thread = &actor->thread;

    return thread->queue->ended || (thread->queue->count > 0 && !thread->for_end);
}

/* The main thread looks for signals before it takes what it has waited for. */
static Step
after_sleep(Actor *actor)
{
    bool looks = actor->looks || (is_there(actor) && is_main_thread(actor));

    return go(actor, looks ? W_QUIT : W_NEXT);
}

static Step
waiter_dispatch(Actor *actor)
{
    switch (dispatch_one(actor)) {
    case DONE_ONE:
        return STEP_CERTAIN;
    case DONE_NO_ROOM:
        return go(actor, W_ENLARGE);
    case DONE_NOTHING:
        if (!w->broken) {
            actor->looks = false;
            return is_there(actor) ? after_sleep(actor) : go(actor, W_POLL);
        }
        break;
    case DONE_PYTHON:
        break;
    }
    reading_hand_over(&w->reading, &actor->thread, &actor->told);
    w->handed_over = true;
    actor->has_read = actor->looks = false;
    return after_sleep(actor);
}

static bool
may_look(const Actor *actor)
{
    return (program_of(actor)->flags & (TIMEOUT | SIGNALS)) != 0;
}

static Step
waiter_polling(Actor *actor)
{
    touch(actor);
    actor->ready = actor->looks = false;
    switch (explore_choose(3)) {
    case 0:
        actor->ready = true;
        return has_input() || w->broken ? go(actor, W_POLLED) : STEP_BLOCKED;
    case 1:
        if (w->wakers == 0 || has_input()) {
            return STEP_BLOCKED;
        }
        explore_expect(actor->thread.sleeper.told, "a thread takes the waker of another");
        return go(actor, W_POLLED);
    default:
        if (!may_look(actor)) {
            return STEP_BLOCKED;
        }
        actor->looks = true;
        (void)go(actor, W_POLLED);
        return STEP_OPTIONAL;
    }
}

static Step
after_poll(Actor *actor)
{
    return actor->ready ? go(actor, W_FILL) : after_sleep(actor);
}

/* Who was not told does what it has read, and looks now and then. */
static Step
waiter_fill(Actor *actor)
{
    bool looks = may_look(actor) && explore_choose(2) == 1;

    fill(actor);
    actor->looks = looks;
    return looks || actor->woken ? after_sleep(actor) : go(actor, W_DISPATCH);
}

static Step
waiter_sleep(Actor *actor)
{
    actor->woken = actor->looks = false;
    switch (explore_choose(3)) {
    case 0:
        if (!actor->wakeup.released) {
            return STEP_BLOCKED;
        }
        actor->wakeup.released = false;
        actor->woken = true;
        return go(actor, W_SLEPT);
    case 1:
        if (!actor->has_alarm) {
            return STEP_BLOCKED;
        }
        (void)go(actor, W_SLEPT);
        return STEP_ALARM;
    default:
        if (!may_look(actor) || actor->has_alarm) {
            return STEP_BLOCKED;
        }
        actor->looks = true;
        (void)go(actor, W_SLEPT);
        return STEP_OPTIONAL;
    }
}

static Step
waiter_slept(Actor *actor)
{
    bool was_told = reading_woke(&w->reading, &actor->thread);

    explore_expect(was_told || !actor->woken, "a thread was woken that was not told");
    if (was_told && !actor->woken) {
        return go(actor, W_TAKE_WAKEUP);
    }
    return after_sleep(actor);
}

static Actor *
handler_of(const Actor *actor)
{
    for (int i = 0; i < PROGRAMS; i++) {
        if (spec->programs[i].inside == actor_number(actor) && spec->programs[i].kind) {
            return &w->actors[FIRST + i];
        }
    }
    return NULL;
}

static Step
waiter_signals(Actor *actor)
{
    if (program_of(actor)->flags & SIGNALS) {
        Actor *handler = handler_of(actor);
        switch (explore_choose(3)) {
        case 1: /* It raised. */
            memset(&actor->wakeup, 0, sizeof actor->wakeup);
            (void)go(actor, GONE);
            return STEP_OPTIONAL;
        case 2:
            if (handler == NULL || handler->place != IDLE) {
                return STEP_BLOCKED;
            }
            (void)go(actor, W_HANDLER);
            return STEP_OPTIONAL;
        default:
            break;
        }
    }
    return waiter_next(actor, true);
}

static Step
waiter_step(Actor *actor)
{
    switch ((Place)actor->place) {
    case IDLE:
        return begin_to_wait(actor) == STEP_CERTAIN ? STEP_OPTIONAL : STEP_BLOCKED;
    case W_SIGNALS:
        return waiter_signals(actor);
    case W_HANDLER:
        return handler_of(actor)->place == GONE ? go(actor, W_SIGNALS) : STEP_BLOCKED;
    case W_NEXT:
        return waiter_next(actor, false);
    case W_DISPATCH:
        return waiter_dispatch(actor);
    case W_GIVE_BACK:
        return give_back(actor, GONE);
    case W_ENLARGE:
        enlarge(&w->queues[actor->queue], w->queues[actor->queue].arrived.capacity);
        return go(actor, W_DISPATCH);
    case W_POLL:
        touch(actor);
        actor->looks = false;
        return reading_poll(&w->reading, &actor->thread) ? go(actor, W_POLLING)
                                                         : after_sleep(actor);
    case W_POLLING:
        return waiter_polling(actor);
    case W_POLLED:
        actor->woken = reading_woke(&w->reading, &actor->thread);
        return actor->woken ? go(actor, W_TAKE_WAKER) : after_poll(actor);
    case W_TAKE_WAKER:
        if (w->wakers == 0) {
            return STEP_BLOCKED;
        }
        w->wakers = 0;
        return after_poll(actor);
    case W_FILL:
        return waiter_fill(actor);
    case W_SLEEP:
        return waiter_sleep(actor);
    case W_SLEPT:
        return waiter_slept(actor);
    case W_TAKE_WAKEUP:
        if (!actor->wakeup.released) {
            return STEP_BLOCKED;
        }
        actor->wakeup.released = false;
        return after_sleep(actor);
    case W_QUIT:
        reading_quit(&w->reading, &actor->thread, &actor->told);
        explore_expect(!actor->thread.sleeper.told, "a thread quits that was told");
        actor->has_read = actor->has_alarm = false;
        return go(actor, W_LOOKED);
    case W_LOOKED:
        if ((program_of(actor)->flags & TIMEOUT) && !is_there(actor) &&
            (!(program_of(actor)->flags & SIGNALS) || explore_choose(2) == 1)) {
            memset(&actor->wakeup, 0, sizeof actor->wakeup);
            return go(actor, GONE);
        }
        return go(actor, W_SIGNALS);
    default:
        return STEP_BLOCKED;
    }
}

/* ---- the receiver ---- */

static void
go_away(Actor *actor, bool yields)
{
    reading_receiver_away(&w->reading, yields, &actor->told);
    w->strict = !yields;
    w->yields = yields;
    see_use();
}

static Step
receiver_has_role(Actor *actor, bool was_named)
{
    w->handed_over = false;
    if (!actor->has_read) {
        see_role_taken(actor, was_named || count_callbacks() > 0 || somebody_cannot_read());
    }
    explore_expect(!w->forked, "a child reads what is the parent's");
    explore_expect(!actor->left || was_named || count_callbacks() > 0 || somebody_cannot_read(),
                   "the receiver does not leave the role to those who wait");
    actor->has_read = true;
    actor->has_alarm = actor->left = false;
    return go(actor, w->stopping ? R_END_QUEUES : R_DUE);
}

static Step
receiver_next(Actor *actor)
{
    bool was_named = w->reading.reader == &w->reading.receiver || w->stopping;

    switch (reading_receiver_next(&w->reading)) {
    case NEXT_READ:
        return receiver_has_role(actor, was_named);
    case NEXT_SLEEP:
        actor->has_alarm = actor->has_read = false;
        return go(actor, R_SLEEP);
    case NEXT_WATCH:
        actor->has_read = false;
        actor->has_alarm = actor->quiet = true;
        return go(actor, R_SLEEP);
    default:
        explore_expect(w->forked, "the receiver ends");
        return go(actor, GONE);
    }
}

static Step
receiver_sleep(Actor *actor)
{
    actor->left = false;
    actor->woken = false;
    if (explore_choose(2) == 0) {
        if (!actor->wakeup.released) {
            return STEP_BLOCKED;
        }
        actor->wakeup.released = false;
        actor->woken = true;
        return go(actor, R_SLEPT);
    }
    if (!actor->has_alarm) {
        return STEP_BLOCKED;
    }
    (void)go(actor, R_SLEPT);
    return STEP_ALARM;
}

static Step
receiver_done(Actor *actor)
{
    bool comes_first = count_callbacks() > 0 || somebody_cannot_read();

    reading_receiver_done(&w->reading, &actor->told);
    actor->has_read = w->reading.reader == &w->reading.receiver;
    explore_expect(actor->has_read || w->reading.waiting != NULL,
                   "the receiver leaves the role to nobody");
    explore_expect(actor->has_read || !comes_first, "the receiver does not come first");
    explore_expect(!actor->has_read || w->reading.waiting == NULL || comes_first,
                   "the receiver keeps the role from those who wait");
    actor->left = !actor->has_read;
    return go(actor, R_NEXT);
}

static Step
receiver_dispatch(Actor *actor)
{
    switch (dispatch_one(actor)) {
    case DONE_ONE:
        return STEP_CERTAIN;
    case DONE_NO_ROOM:
        return go(actor, R_ENLARGE);
    case DONE_PYTHON:
        return go(actor, R_AWAY);
    case DONE_NOTHING:
        break;
    }
    if (w->broken) {
        go_away(actor, true);
        return go(actor, R_STOP);
    }
    return receiver_done(actor);
}

/* dispatch_python steps out. */
static Step
receiver_away(Actor *actor)
{
    int number = due();
    Message message = spec->script[number];

    touch(actor);
    consume(number);
    actor->received = (uint8_t)number; /* the message that it is at */
    actor->queue = (uint8_t)message.queue;
    go_away(actor, message.kind == M_CLOSE || message.kind == M_LET_GO);
    return go(actor, R_PYTHON);
}

static Step
receiver_stops(Actor *actor)
{
    return go(actor, R_STOP);
}

/* What Python does for the message, in steps. */
static Step
receiver_python(Actor *actor)
{
    int number = actor->received;
    Message message = spec->script[number];
    Queue *queue = &w->queues[message.queue];

    switch (message.kind) {
    case M_ITEM:
    case M_CHANNEL_ITEM:
        switch (arrive_to_call(actor, queue, number)) {
        case ARRIVAL_IS_FOR_CALLBACK:
            go_away(actor, true);
            w->fates[number] = FATE_QUEUED;
            see_taken(queue, number);
            return go(actor, R_CALLBACK);
        case ARRIVAL_NEEDS_ROOM:
            enlarge(queue, queue->arrived.capacity);
            return STEP_CERTAIN;
        default:
            return go(actor, R_BACK);
        }
    case M_CLOSE:
        if (!queue->registered) {
            return go(actor, R_BACK);
        }
        end_queue(actor, queue);
        return go(actor, R_MARKER);
    case M_EXEC:
        go_away(actor, true);
        return go(actor, R_CALLBACK);
    case M_LET_GO:
        return go(actor, R_CALLBACK);
    case M_STATUS:
        return go(actor, R_BACK);
    default: /* M_TERMINATE */
        return receiver_stops(actor);
    }
}

static Step
receiver_callback(Actor *actor)
{
    Actor *inside = handler_of(actor);
    Queue *queue = &w->queues[actor->queue];
    MessageKind kind = spec->script[actor->received].kind;
    bool is_item = kind == M_ITEM || kind == M_CHANNEL_ITEM;
    int what = explore_choose(3);

    if (inside != NULL && inside->place != GONE && inside->place != IDLE) {
        return STEP_BLOCKED;
    }
    if (what != 0 && !spec->receiver_raises) {
        return STEP_BLOCKED;
    }
    if (!is_item) {
        (void)go(actor, what == 1 ? R_STOP : R_BACK);
        return what == 2 ? STEP_BLOCKED : STEP_OPTIONAL;
    }
    queue->is_calling = false;
    let_go(&queue->functions);
    explore_expect(reading_called(&w->reading, &queue->arrived) == queue->ended,
                   "the receiver is told wrongly whether its callback missed the end");
    if (what == 2) { /* An Exception closes the channel. */
        if (queue->registered) {
            end_queue(actor, queue);
        }
    }
    actor->raised = what == 1;
    (void)go(actor, queue->ended ? R_MARKER : what == 1 ? R_STOP : R_BACK);
    return STEP_OPTIONAL;
}

static Step
receiver_end_queues(Actor *actor)
{
    for (int i = 0; i < QUEUES; i++) {
        if (w->queues[i].registered) {
            actor->queue = (uint8_t)i;
            end_queue(actor, &w->queues[i]);
            return go(actor, R_MARKER);
        }
    }
    reading_stopped(&w->reading, &actor->told);
    w->stopped = true;
    return go(actor, R_CLOSE);
}

static Step
receiver_step(Actor *actor)
{
    switch ((Place)actor->place) {
    case IDLE:
        (void)go(actor, R_NEXT);
        return STEP_OPTIONAL;
    case R_NEXT:
        return receiver_next(actor);
    case R_SLEEP:
        return receiver_sleep(actor);
    case R_SLEPT: {
        bool was_told = reading_receiver_woke(&w->reading);
        explore_expect(was_told || !actor->woken, "the receiver was woken that was not told");
        return go(actor, was_told && !actor->woken ? R_TAKE_WAKEUP : R_NEXT);
    }
    case R_TAKE_WAKEUP:
        if (!actor->wakeup.released) {
            return STEP_BLOCKED;
        }
        actor->wakeup.released = false;
        return go(actor, R_NEXT);
    case R_DUE:
        touch(actor);
        return go(actor, w->broken || due() >= 0 ? R_DISPATCH : R_FILL);
    case R_FILL:
        if (!has_input()) {
            return STEP_BLOCKED;
        }
        fill(actor);
        return go(actor, R_STATUS);
    case R_STATUS: {
        int number = due();
        if (number >= 0 && spec->script[number].kind == M_STATUS && explore_choose(2) == 0) {
            consume(number);
            return STEP_CERTAIN;
        }
        return w->broken || w->read > w->done ? go(actor, R_DISPATCH) : receiver_done(actor);
    }
    case R_DISPATCH:
        return receiver_dispatch(actor);
    case R_ENLARGE:
        enlarge(&w->queues[actor->queue], w->queues[actor->queue].arrived.capacity);
        return go(actor, R_DISPATCH);
    case R_AWAY:
        return receiver_away(actor);
    case R_PYTHON:
        return receiver_python(actor);
    case R_CALLBACK:
        return receiver_callback(actor);
    case R_MARKER:
        take_endmarker(&w->queues[actor->queue]);
        if (w->stopping && !w->forked) {
            return go(actor, R_END_QUEUES);
        }
        return go(actor, actor->raised ? R_STOP : R_BACK);
    case R_BACK: {
        w->strict = false;
        bool has_role = reading_receiver_back(&w->reading);
        explore_expect(has_role == (w->reading.reader == &w->reading.receiver),
                       "the receiver is told wrongly whether it has the role");
        if (has_role) {
            explore_expect(!w->forked, "a child reads what is the parent's");
            w->yields = w->handed_over = false;
            return go(actor, R_DISPATCH);
        }
        actor->has_read = false;
        return go(actor, R_NEXT);
    }
    case R_STOP:
        if (w->forked) {
            return go(actor, GONE);
        }
        w->strict = w->yields = false;
        reading_stop(&w->reading, &actor->told);
        w->stopping = true;
        actor->has_read = false;
        return go(actor, R_NEXT);
    case R_END_QUEUES:
        return receiver_end_queues(actor);
    case R_CLOSE:
        /* The waker, and then the descriptor. */
        w->waker_open = false;
        w->fd_closed = true;
        return go(actor, GONE);
    default:
        return STEP_BLOCKED;
    }
}

/* ---- others ---- */

static Step
begin_other(Actor *actor)
{
    const Program *program = program_of(actor);
    Queue *queue = &w->queues[program->queue];

    switch (program->kind) {
    case P_CLOSE:
        if (!queue->registered) {
            return go(actor, GONE);
        }
        end_queue(actor, queue);
        return go(actor, X_MARKER);
    case P_DROP:
        if (queue->drain == DRAINS) {
            return STEP_BLOCKED;
        }
        queue->dropped = true;
        if (queue->has_callback) {
            return go(actor, X_DROPPED);
        }
        queue->registered = false;
        return go(actor, X_UNREGISTERED);
    case P_SETCALLBACK: {
        if (queue->dropped) {
            return go(actor, GONE);
        }
        bool begins = reading_begin_callback(&w->reading, &queue->arrived, &queue->functions,
                                             &queue->marker_given);
        explore_expect(begins == (queue->drain == DRAIN_NOT), "a callback is set twice");
        if (!begins) {
            return go(actor, GONE);
        }
        queue->drain = DRAINS;
        queue->functions++;
        queue->has_callback = queue->has_marker = true;
        queue->marker_given = false;
        return go(actor, C_NEXT);
    }
    case P_PUT: {
        int number = MESSAGES + actor_number(actor) - FIRST;
        actor->received = (uint8_t)queue->arrived.capacity;
        if (arrive(actor, queue, number) == ARRIVAL_NEEDS_ROOM) {
            return go(actor, X_ENLARGE);
        }
        if (w->fates[number] == FATE_NONE) {
            drop_item(number); /* is for a callback: the caller's */
        }
        return go(actor, GONE);
    }
    case P_ASK:
        return go(actor, X_ASK);
    case P_FORK:
        return go(actor, F_DISOWN);
    default:
        return STEP_BLOCKED;
    }
}

static bool
is_around(const Actor *forker, const Actor *actor)
{
    return actor == forker ||
           (program_of(forker)->inside != 0 && actor_number(actor) == program_of(forker)->inside);
}

/* In the child nobody else is there, and the lock as it may have been. */
static void
fork_away(const Actor *forker)
{
    w->forked = true;
    w->reading.lock.taken = true;
    for (int i = 0; i < FIRST + PROGRAMS; i++) {
        if (!is_around(forker, &w->actors[i])) {
            uint8_t place = w->actors[i].place;
            memset(&w->actors[i], 0, sizeof w->actors[i]);
            w->actors[i].place = i >= FIRST && place == IDLE ? IDLE : GONE;
        }
    }
    w->wakers = 0;
}

static Step
other_step(Actor *actor)
{
    const Program *program = program_of(actor);
    Queue *queue = &w->queues[program->queue];
    ReadingItem item;

    switch ((Place)actor->place) {
    case IDLE:
        return begin_other(actor) == STEP_BLOCKED ? STEP_BLOCKED : STEP_OPTIONAL;
    case X_DROPPED:
        return queue->ended ? go(actor, X_UNREGISTERED) : STEP_BLOCKED;
    case X_UNREGISTERED: /* The queue is being deallocated, unless somebody waits with it. */
        end_queue(actor, queue);
        return go(actor, X_EMPTY);
    case X_EMPTY:
        switch (reading_take(&w->reading, &queue->arrived, &item)) {
        case TAKE_ITEM:
            see_item(queue, item);
            return STEP_CERTAIN;
        default:
            return go(actor, GONE);
        }
    case X_ENLARGE:
        enlarge(queue, actor->received);
        (void)go(actor, IDLE);
        return STEP_CERTAIN;
    case X_MARKER:
    case C_MARKER:
        take_endmarker(queue);
        return go(actor, GONE);
    case C_NEXT:
        switch (reading_next_for_callback(&w->reading, &queue->arrived, &item)) {
        case TAKE_ITEM:
            see_item(queue, item);
            return go(actor, is_kept_from(actor, item) ? C_GIVE_BACK : C_CALLBACK);
        case TAKE_END:
            explore_expect(queue->ended || w->stopped, "a callback ends before its queue");
            queue->drain = DIRECT;
            return go(actor, C_MARKER);
        case TAKE_NONE:
            explore_expect(!queue->ended && !w->stopped, "a callback misses the end");
            queue->drain = DIRECT;
            /* A signal's handler may raise here, too. */
            if ((program->flags & SIGNALS) && explore_choose(2) == 1) {
                return go(actor, C_ABANDON);
            }
            return go(actor, GONE);
        }
        return STEP_BLOCKED;
    case C_CALLBACK:
        if (explore_choose(2) == 1 && !(program->flags & RAISES)) {
            return STEP_BLOCKED;
        }
        (void)go(actor, program->flags & RAISES && explore_choose(2) == 1 ? C_ABANDON : C_NEXT);
        return STEP_OPTIONAL;
    case C_GIVE_BACK:
        return give_back(actor, C_ABANDON);
    case C_ABANDON: {
        void *function, *marker;
        reading_abandon_callback(&w->reading, &queue->arrived, &function, &marker);
        explore_expect(function == &queue->functions, "another function is abandoned");
        explore_expect(marker == (queue->has_marker ? &queue->marker_given : NULL),
                       "another end marker is abandoned");
        let_go(function);
        queue->has_callback = queue->has_marker = false;
        queue->was_direct = queue->drain == DIRECT;
        queue->drain = DRAIN_NOT;
        return go(actor, GONE);
    }
    case X_ASK: {
        void *function = reading_function(&w->reading, &queue->arrived);
        explore_expect(function == (queue->has_callback ? &queue->functions : NULL),
                       "who asks for the callback is told wrongly");
        if (function != NULL) {
            let_go(function);
        }
        return go(actor, GONE);
    }
    case F_DISOWN:
        fork_away(actor);
        reading_disown(&w->reading);
        w->stopped = w->stopping = true;
        w->strict = w->yields = false;
        return go(actor, F_STOPPED);
    case F_STOPPED:
        reading_stopped(&w->reading, &actor->told);
        w->waker_open = false;
        return go(actor, F_QUEUES);
    case F_QUEUES:
        for (int i = 0; i < QUEUES; i++) {
            if (!w->queues[i].ended) {
                end_queue(actor, &w->queues[i]);
                return STEP_CERTAIN;
            }
        }
        return go(actor, GONE);
    default:
        return STEP_BLOCKED;
    }
}

/* What comes from outside: the next of the script. */
static Step
outside_step(void)
{
    if (w->forked || w->available == MESSAGES || spec->script[w->available].kind == M_NOTHING) {
        return STEP_BLOCKED;
    }
    w->available++;
    return STEP_OPTIONAL;
}

static bool
may_begin(const Actor *actor)
{
    int inside = program_of(actor)->inside;

    if (actor->place != IDLE || inside == 0) {
        return true;
    }
    const Actor *around = &w->actors[inside];
    return around->told == NULL && around->place == (inside == RECEIVER ? R_CALLBACK : W_HANDLER);
}

static Step
step(int number)
{
    Actor *actor = &w->actors[number];

    if (number == OUTSIDE) {
        return outside_step();
    }
    if (actor->told != NULL) {
        wake_first(actor);
        return STEP_CERTAIN;
    }
    if (number == RECEIVER) {
        return receiver_step(actor);
    }
    if (!may_begin(actor)) {
        return STEP_BLOCKED;
    }
    ProgramKind kind = program_of(actor)->kind;
    return kind == P_RECEIVE || kind == P_WAITCLOSE ? waiter_step(actor) : other_step(actor);
}

/* ---- what holds ---- */

/* What came in is queued in order; what was put, wherever it was. */
static void
check_queued(const ReadingQueue *arrived)
{
    int last = -1;

    explore_expect(arrived->count <= arrived->capacity, "a queue holds more than it has room for");
    for (size_t i = 0; i < arrived->count; i++) {
        ReadingItem item = arrived->items[(arrived->first + i) & (arrived->capacity - 1)];
        explore_expect(item.object != NULL && w->fates[number_of(item)] == FATE_QUEUED,
                       "an item is queued that is not there");
        int number = number_of(item);
        explore_expect(number > last || number >= MESSAGES, "items are queued out of order");
        last = number < MESSAGES ? number : last;
    }
}

static void
check_items(void)
{
    for (int i = 0; i < QUEUES; i++) {
        Queue *queue = &w->queues[i];
        size_t queued = 0;
        for (int number = 0; number < MESSAGES + PROGRAMS; number++) {
            int of = number < MESSAGES ? spec->script[number].queue
                                       : spec->programs[number - MESSAGES].queue;
            queued += of == i && w->fates[number] == FATE_QUEUED;
        }
        explore_expect(queued == queue->arrived.count, "an item is lost");
        check_queued(&queue->arrived);
    }
    for (int number = 0; number < w->done; number++) {
        MessageKind kind = spec->script[number].kind;
        bool is_item = kind == M_ITEM || kind == M_CHANNEL_ITEM;
        bool is_at =
            w->actors[RECEIVER].place == R_PYTHON && w->actors[RECEIVER].received == number;
        explore_expect(!is_item || is_at || w->fates[number] != FATE_NONE, "an item is skipped");
    }
}

static void
clean_ring(ReadingQueue *arrived, ReadingItem *ring, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        ReadingItem item = ring[i];
        bool is_used = arrived->items == ring &&
                       ((i - arrived->first) & (arrived->capacity - 1)) < arrived->count;
        memset(&ring[i], 0, sizeof ring[i]);
        if (is_used) {
            ring[i].object = item.object;
            ring[i].built = item.built;
        }
    }
}

static bool
is_linked(const ReadingThread *thread)
{
    for (const ReadingThread *at = w->reading.waiting; at != NULL; at = at->next) {
        if (at == thread) {
            return true;
        }
    }
    return false;
}

static bool
is_in_a_told_list(const Sleeper *sleeper)
{
    for (int i = 0; i < FIRST + PROGRAMS; i++) {
        for (const Sleeper *told = w->actors[i].told; told != NULL; told = told->next_told) {
            if (told == sleeper) {
                return true;
            }
        }
    }
    return false;
}

/* Who is told stays so until he is woken, whether he has noticed or not. */
static void
clean_sleeper(Sleeper *sleeper)
{
    if (!is_in_a_told_list(sleeper)) {
        sleeper->next_told = NULL;
        sleeper->by_waker = sleeper->told && sleeper->by_waker;
    }
}

static void
clean(void)
{
    Reading *reading = &w->reading;

    for (int i = 0; i < QUEUES; i++) {
        Queue *queue = &w->queues[i];
        clean_ring(&queue->arrived, queue->ring1, 1);
        clean_ring(&queue->arrived, queue->ring2, 2);
        clean_ring(&queue->arrived, queue->ring4, 4);
    }
    reading->receiver.seen = reading->receiver.seen == reading->uses ? 0 : (unsigned)-1;
    for (int i = FIRST; i < FIRST + PROGRAMS; i++) {
        Actor *actor = &w->actors[i];
        ReadingThread *thread = &actor->thread;
        if (actor->place == GONE && actor->told == NULL) {
            /* Nobody may know the thread any more; if somebody does, it is seen by its wake-up. */
            explore_expect(!is_linked(thread), "a thread still waits that is gone");
            explore_expect(reading->reader != thread, "the role is a thread's that is gone");
        }
        if (!is_linked(thread)) {
            explore_expect(reading->reader != thread, "the role is a thread's that does not wait");
            /* Before it waits, these may be anything. */
            thread->next = thread;
            thread->watches = true;
            thread->state = THREAD_POLLING;
            thread->seen = 0;
        } else {
            thread->seen = thread->watches && thread->seen != reading->uses ? (unsigned)-1 : 0;
        }
        clean_sleeper(&thread->sleeper);
        if (actor->place == GONE) {
            actor->has_read = actor->quiet = false;
        }
    }
    clean_sleeper(&reading->receiver.sleeper);
    reading->uses = 0;
}

static bool
receiver_is_away(void)
{
    switch ((Place)w->actors[RECEIVER].place) {
    case IDLE:
    case R_NEXT: /* about to look */
    case R_PYTHON:
    case R_CALLBACK:
    case R_MARKER:
    case R_BACK:
    case R_STOP:
    case GONE:
        return true;
    default:
        return false;
    }
}

static bool
wants_to_read(const ReadingThread *thread)
{
    const ReadingQueue *queue = thread->queue;

    return thread->can_read && !queue->ended && (thread->for_end || queue->count == 0);
}

static bool
somebody_wants_to_read(void)
{
    for (const ReadingThread *at = w->reading.waiting; at != NULL; at = at->next) {
        if (wants_to_read(at)) {
            return true;
        }
    }
    return false;
}

/* Who leaves the role names the next. */
static void
check_role(void)
{
    const ReadingThread *before = w->reader, *now = w->reading.reader;
    const ReadingThread *receiver = &w->reading.receiver;
    bool comes_first = count_callbacks() > 0 || somebody_cannot_read() || w->stopping;

    if (now != NULL && now != before) {
        see_use();
        explore_expect(now == receiver || wants_to_read(now),
                       "the role is given to one who has what it waits for");
    }
    if (before != NULL && now == NULL && !w->stopped) {
        explore_expect(w->stopping || !somebody_wants_to_read(), "the role is dropped");
        explore_expect(!comes_first || receiver_is_away(), "the receiver does not come first");
    }
    if (before != NULL && before != receiver && now == receiver) {
        explore_expect(w->handed_over || comes_first, "the receiver is woken for nothing");
    }
    if (now != NULL && now == before && now != receiver && !w->stopping) {
        explore_expect(!receiver->sleeper.told || w->receiver_told,
                       "the receiver is woken while another one reads");
    }
    w->receiver_told = receiver->sleeper.told;
    w->reader = now;
}

/* All that wait, in order, for whoever asks; no more of them than there is room for. */
static void
check_list(void)
{
    ReadingWaiter listed[PROGRAMS];
    size_t count = reading_list(&w->reading, listed, PROGRAMS), at = 0;

    for (const ReadingThread *thread = w->reading.waiting; thread != NULL; thread = thread->next) {
        explore_expect(at < count && listed[at].queue == thread->queue &&
                           listed[at].for_end == thread->for_end,
                       "a thread that waits is not listed");
        at++;
    }
    explore_expect(at == count, "a thread is listed that does not wait");
    explore_expect(reading_list(&w->reading, listed, 0) == 0, "more is listed than asked for");
}

static void
check(void)
{
    int readers = 0;

    check_list();
    explore_expect(!w->reading.lock.taken, "a lock is kept");
    for (int i = RECEIVER; i < FIRST + PROGRAMS; i++) {
        readers += is_in_role(&w->actors[i]);
    }
    explore_expect(readers <= 1, "two threads read");
    explore_expect(w->reading.receiver.state != THREAD_AWAY || receiver_is_away() ||
                       w->actors[RECEIVER].place == R_PYTHON,
                   "the receiver reads, and is thought away");
    check_items();
    check_role();
    explore_expect(w->forked || count_callbacks() == w->reading.callbacks,
                   "callbacks are miscounted");
    clean();
}

/* The thread has what it waits for. */
static bool
has_its_own(const Actor *actor)
{
    const Program *program = program_of(actor);
    const Queue *queue = &w->queues[program->queue];

    return queue->ended || w->stopped || (queue->arrived.count > 0 && program->kind == P_RECEIVE);
}

static bool
sleeps(const Actor *actor)
{
    return actor->place == W_SLEEP || actor->place == W_POLLING;
}

static bool
is_waiter(const Actor *actor)
{
    ProgramKind kind = program_of(actor)->kind;

    return kind == P_RECEIVE || kind == P_WAITCLOSE;
}

/* Awake, on its way through certain steps. */
static bool
is_busy(const Actor *actor)
{
    switch ((Place)actor->place) {
    case IDLE:
    case GONE:
    case W_SLEEP:
    case W_POLLING:
    case W_HANDLER:
    case R_SLEEP:
    case R_FILL:
    case R_CALLBACK:
    case C_CALLBACK:
    case X_DROPPED:
        return actor->told != NULL;
    default:
        return true;
    }
}

static bool
is_served(void)
{
    for (int i = FIRST; i < FIRST + PROGRAMS; i++) {
        const Actor *actor = &w->actors[i];
        if (is_busy(actor) || (is_waiter(actor) && sleeps(actor) && has_its_own(actor))) {
            return false;
        }
    }
    return !is_busy(&w->actors[RECEIVER]) && (!w->stopping || w->stopped);
}

/* Somebody waits who could read. */
static bool
somebody_could_read(void)
{
    for (int i = FIRST; i < FIRST + PROGRAMS; i++) {
        const Actor *actor = &w->actors[i];
        if (is_waiter(actor) && sleeps(actor) && actor->thread.can_read) {
            return true;
        }
    }
    return false;
}

static bool
is_for_python(int number)
{
    if (number < 0) {
        return false;
    }
    Message message = spec->script[number];
    const Queue *queue = &w->queues[message.queue];
    switch (message.kind) {
    case M_ITEM:
        return is_for_callback(queue);
    case M_CLOSE:
        return queue->registered && (queue->dropped || queue->has_callback);
    default:
        return true;
    }
}

/* Whoever watches ends doing so when nobody does anything. */
static bool
somebody_watches(void)
{
    for (int i = RECEIVER; i < FIRST + PROGRAMS; i++) {
        const Actor *actor = &w->actors[i];
        if ((actor->place == W_SLEEP || actor->place == R_SLEEP) && actor->has_alarm) {
            return true;
        }
    }
    return false;
}

static bool
is_settled(void)
{
    if (!is_served() || somebody_watches()) {
        return false;
    }
    if (w->forked) {
        return true;
    }
    if (!has_input() && due() < 0 && !w->broken) {
        return true;
    }
    switch ((Place)w->actors[RECEIVER].place) {
    case GONE:
        return true;
    case IDLE:
    case R_CALLBACK:
        /* It may be long away: whoever waits does what can be done without it. */
        return !somebody_could_read() || w->handed_over || is_for_python(due()) ||
               (due() < 0 && w->broken);
    default:
        return false;
    }
}

static bool
is_end(void)
{
    for (int i = RECEIVER; i < FIRST + PROGRAMS; i++) {
        const Actor *actor = &w->actors[i];
        bool never_began = i >= FIRST && actor->place == IDLE &&
                           (program_of(actor)->inside != 0 || program_of(actor)->kind == 0);
        if (actor->told != NULL || (actor->place != GONE && !never_began)) {
            return false;
        }
    }
    for (int i = 0; i < QUEUES; i++) {
        const Queue *queue = &w->queues[i];
        bool is_known = i == 0 || !spec->unknown;
        if (queue->has_callback && queue->has_marker && is_known && !w->forked) {
            return false;
        }
    }
    return true;
}

static const char *
describe(int number)
{
    static char text[200];
    const Actor *actor = &w->actors[number];
    static const char *const kinds[] = {"",     "receive",     "waitclose", "close",
                                        "drop", "setcallback", "put",       "ask", "fork"};

    if (number == OUTSIDE) {
        return "input comes";
    }
    (void)snprintf(text, sizeof text, "%s %s%s",
                   number == RECEIVER ? "" : kinds[program_of(actor)->kind],
                   actor->told != NULL ? "wakes one of those told, and then: " : "",
                   place_names[actor->place]);
    return text;
}

static void
begin(const void *given)
{
    spec = given;
    memset(&memory, 0, sizeof memory);
    w->reading.lock.taken = true; /* until it is made */
    reading_init(&w->reading, hold);
    w->reading.receiver.sleeper.wakeup = &w->actors[RECEIVER].wakeup;
    w->actors[RECEIVER].wakeup.is_there = true;
    for (int i = 0; i < PROGRAMS; i++) {
        w->actors[FIRST + i].place = spec->programs[i].kind == P_NOTHING ? GONE : IDLE;
    }
    w->actors[OUTSIDE].place = GONE;
    for (int i = 0; i < QUEUES; i++) {
        w->queues[i].registered = i == 0 || !spec->unknown;
    }
}

static const Model model = {
    .world = &memory,
    .size = sizeof memory,
    .actors = FIRST + PROGRAMS,
    .begin = begin,
    .step = step,
    .check = check,
    .is_settled = is_settled,
    .is_served = is_served,
    .is_end = is_end,
    .describe = describe,
};

/* ---- the worlds ---- */

#define ITEM(queue)                                                                                \
    {                                                                                              \
        M_ITEM, queue                                                                              \
    }
#define CLOSE(queue)                                                                               \
    {                                                                                              \
        M_CLOSE, queue                                                                             \
    }
#define PART(queue)                                                                                \
    {                                                                                              \
        M_PART, queue                                                                              \
    }
#define END                                                                                        \
    {                                                                                              \
        M_END, 0                                                                                   \
    }

static const Spec specs[] = {
#include "reading_worlds.h"
};

void
explore_reading(Wanted is_wanted)
{
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        if (is_wanted(specs[i].name, specs[i].is_short)) {
            explore(specs[i].name, &model, &specs[i]);
        }
    }
}
