/* Who reads a connection: the machine behind receive() and the receiver thread.

   One thread at a time holds the reader role; only it touches the descriptor's input and what was
   read. The role is the receiver's by default, which sleeps in read(). A thread that waits for an
   item takes the role when it is free and reads until its own item is there, so no second thread
   has to be woken. What only the receiver may do (run Python code) is handed over to it,
   and nothing that came after it is done before it.

   The role is handed on, never just dropped: the thread that leaves it names the next (`reader`),
   and the one that is named has it, awake or not, until it hands it on in turn. A thread that was
   named but does not want it any more (satisfied, timed out, interrupted) leaves by the same
   function as any other, so a role or a wake-up that reaches it too late is not lost. Only where
   somebody is certain to look soon is the role left free: so that a thread that receives item after
   item takes it without anybody being woken.

   While the receiver runs Python code it keeps the role: what was sent before is seen before. Where
   that may take long, a callback above all, it yields: a thread that waits takes the role when it
   has watched for a while that nobody used it.

   What always holds (reading_check asserts it after every transition):

   1. At most one thread has the role; a thread that has it and waits is in the list.
   2. The role is free, or yielded => somebody looks: the receiver, or some waiting thread that
   could read, is awake or watching; or the receiver is away (it looks when it is back) and no
   waiting thread could read.
   3. A thread that has the role and sleeps => it sleeps over the descriptor, or has been told.
   4. A thread is told once at most before it wakes, and is awake from then on for all the others.
   5. As many of the threads that wait for items of a queue are awake as there are items, or all.
      Of a queue that has ended, and after the stop, all are.
   6. `callbacks` counts the queues that have a callback and have not ended. While it is not 0 the
      receiver takes the role before others do, so that callbacks are not late.
   7. After reading_stop the role goes to nobody but the receiver, and stays with it.
   8. When a queue has ended, exactly one thread takes its callback's end marker, and only once no
   thread is calling the function any more. A thread that asks too early gets nothing; the one that
   still delivers or calls asks again when it has finished.

   The lock is held for a few lines at a time; nothing under it waits, allocates or runs Python. */
#include "connection/reading.h"

#include <assert.h>

/* ---- what holds ---- */

static bool
is_satisfied(const Reading *reading, const ReadingThread *thread)
{
    const ReadingQueue *queue = thread->queue;

    return queue->ended || reading->stopped || (queue->count > 0 && !thread->for_end);
}

/* Whether a waiting thread would read, if it had the role. */
static bool
wants_role(const Reading *reading, const ReadingThread *thread)
{
    return thread->can_read && !is_satisfied(reading, thread);
}

/* Whether a thread that wants the role may take it. */
static bool
is_free(const Reading *reading)
{
    return reading->reader == NULL || reading->yields;
}

static bool
looks(const ReadingThread *thread)
{
    return thread->state == THREAD_AWAKE || thread->state == THREAD_WATCHING;
}

/* How many wait for items of the queue, and are awake. */
static size_t
count_takers(const Reading *reading, const ReadingQueue *queue)
{
    size_t count = 0;

    for (const ReadingThread *thread = reading->waiting; thread != NULL; thread = thread->next) {
        count += thread->queue == queue && !thread->for_end && thread->state == THREAD_AWAKE;
    }
    return count;
}

static bool
somebody_looks(const Reading *reading)
{
    const ReadingThread *receiver = &reading->receiver;
    bool needed = receiver->state != THREAD_AWAY;

    if (looks(receiver)) {
        return true;
    }
    for (const ReadingThread *thread = reading->waiting; thread != NULL; thread = thread->next) {
        /* One that is awake may be satisfied, but then it leaves, and has somebody look. */
        if (looks(thread)) {
            return true;
        }
        needed = needed || wants_role(reading, thread);
    }
    return !needed;
}

#ifdef NDEBUG
#define reading_check(reading) ((void)(reading))
#else
static bool
waits(const Reading *reading, const ReadingThread *thread)
{
    for (const ReadingThread *other = reading->waiting; other != NULL; other = other->next) {
        if (other == thread) {
            return true;
        }
    }
    return false;
}

static void
reading_check(const Reading *reading)
{
    const ReadingThread *reader = reading->reader, *receiver = &reading->receiver;

    assert(reader == NULL || reader == receiver || waits(reading, reader));
    assert(!is_free(reading) || reading->stopped || somebody_looks(reading));
    assert(!reading->yields || (reader == receiver && receiver->state == THREAD_AWAY));
    assert(reader == NULL || reader->state == THREAD_AWAKE || reader->state == THREAD_AWAY ||
           reader->state == THREAD_POLLING);
    assert(reader == receiver || receiver->state != THREAD_POLLING);
    for (const ReadingThread *thread = reading->waiting; thread != NULL; thread = thread->next) {
        const ReadingQueue *queue = thread->queue;
        bool awake = thread->state == THREAD_AWAKE;
        assert(thread == reader || thread->state != THREAD_POLLING);
        assert(awake || !thread->sleeper.told);
        assert(awake || (!queue->ended && !reading->stopped));
        assert(awake || thread->for_end || queue->count == 0 ||
               count_takers(reading, queue) >= queue->count);
    }
}
#endif

/* ---- telling ---- */

static void
tell(ReadingThread *thread, Told *told)
{
    if (thread->state == THREAD_AWAKE || thread->state == THREAD_AWAY) {
        return;
    }
    sleeper_tell(&thread->sleeper, thread->state == THREAD_POLLING, told);
    thread->state = THREAD_AWAKE;
}

static void
tell_all(Reading *reading, const ReadingQueue *queue, Told *told)
{
    for (ReadingThread *thread = reading->waiting; thread != NULL; thread = thread->next) {
        if (queue == NULL || thread->queue == queue) {
            tell(thread, told);
        }
    }
}

/* As many as there are items. */
static void
tell_takers(Reading *reading, const ReadingQueue *queue, Told *told)
{
    size_t awake = count_takers(reading, queue);

    for (ReadingThread *thread = reading->waiting; awake < queue->count && thread != NULL;
         thread = thread->next) {
        if (thread->queue == queue && !thread->for_end && thread->state != THREAD_AWAKE) {
            tell(thread, told);
            awake++;
        }
    }
}

/* ---- the role ---- */

static void
take_role(Reading *reading, ReadingThread *thread)
{
    reading->reader = thread;
    thread->watches = false;
    reading->yields = false;
    reading->uses++;
}

static void
name_reader(Reading *reading, ReadingThread *thread, Told *told)
{
    take_role(reading, thread);
    tell(thread, told);
}

static ReadingThread *
first_that_wants_role(const Reading *reading)
{
    ReadingThread *thread = reading->waiting;

    while (thread != NULL && !wants_role(reading, thread)) {
        thread = thread->next;
    }
    return thread;
}

/* Whether the receiver is to read before anybody else: callbacks would be late, and threads that
   can't read would not be served. */
static bool
receiver_comes_first(const Reading *reading)
{
    for (const ReadingThread *thread = reading->waiting; thread != NULL; thread = thread->next) {
        if (!thread->can_read) {
            return true;
        }
    }
    return reading->callbacks > 0 || reading->stopping;
}

/* Where the role is free, see to it that somebody looks. */
static void
have_somebody_look(Reading *reading, Told *told)
{
    if (!is_free(reading) || reading->stopped || somebody_looks(reading)) {
        return;
    }
    if (reading->receiver.state == THREAD_ASLEEP) {
        tell(&reading->receiver, told);
        return;
    }
    tell(first_that_wants_role(reading), told);
}

/* A waiting thread lets go of the role: which one is next? */
static void
leave_role(Reading *reading, Told *told)
{
    ReadingThread *next = reading->stopping ? NULL : first_that_wants_role(reading);

    reading->reader = NULL;
    if (next != NULL) {
        name_reader(reading, next, told);
    } else if (receiver_comes_first(reading) && reading->receiver.state != THREAD_AWAY) {
        name_reader(reading, &reading->receiver, told);
    }
}

static void
unlink_thread(Reading *reading, ReadingThread *thread)
{
    ReadingThread **link = &reading->waiting;

    while (*link != thread) {
        link = &(*link)->next;
    }
    *link = thread->next;
}

/* The thread waits no longer: what it owed is another's now. */
static void
leave(Reading *reading, ReadingThread *thread, Told *told)
{
    unlink_thread(reading, thread);
    tell_takers(reading, thread->queue, told);
    if (reading->reader == thread) {
        leave_role(reading, told);
    }
    have_somebody_look(reading, told);
}

/* ---- beginning and forking ---- */

void
reading_init(Reading *reading, void (*hold)(void *object))
{
    mutex_init(&reading->lock);
    reading->hold = hold;
    reading->receiver.state = THREAD_AWAY;
}

void
reading_disown(Reading *reading)
{
    mutex_init(&reading->lock);
    reading->waiting = NULL;
    reading->reader = NULL;
    reading->yields = false;
    reading->stopping = reading->stopped = true;
}

/* ---- queues ---- */

static ReadingItem
pop(ReadingQueue *queue)
{
    ReadingItem item = queue->items[queue->first];

    queue->first = (queue->first + 1) & (queue->capacity - 1);
    queue->count--;
    return item;
}

static Arrival
arrive(Reading *reading, ReadingQueue *queue, ReadingItem item, Told *told)
{
    if (queue->ended) {
        return ARRIVAL_TOO_LATE;
    }
    if (queue->callback == CALLBACK_DIRECT) {
        return ARRIVAL_IS_FOR_CALLBACK;
    }
    if (queue->count == queue->capacity) {
        return ARRIVAL_NEEDS_ROOM;
    }
    queue->items[(queue->first + queue->count) & (queue->capacity - 1)] = item;
    queue->count++;
    tell_takers(reading, queue, told);
    return ARRIVAL_QUEUED;
}

Arrival
reading_arrive(Reading *reading, ReadingQueue *queue, ReadingItem item, Told *told)
{
    mutex_lock(&reading->lock);
    Arrival arrival = arrive(reading, queue, item, told);
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return arrival;
}

/* The function of the queue's callback. */
static void *
held(const Reading *reading, const ReadingQueue *queue)
{
    reading->hold(queue->function);
    return queue->function;
}

Arrival
reading_arrive_to_call(Reading *reading, ReadingQueue *queue, ReadingItem item, void **function,
                       Told *told)
{
    mutex_lock(&reading->lock);
    Arrival arrival = arrive(reading, queue, item, told);
    if (arrival == ARRIVAL_IS_FOR_CALLBACK) {
        *function = held(reading, queue);
        queue->calling = true;
    }
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return arrival;
}

bool
reading_called(Reading *reading, ReadingQueue *queue)
{
    mutex_lock(&reading->lock);
    queue->calling = false;
    bool has_ended = queue->ended;
    mutex_unlock(&reading->lock);
    return has_ended;
}

Arrival
reading_give_back(Reading *reading, ReadingQueue *queue, ReadingItem item, Told *told)
{
    Arrival arrival = ARRIVAL_NEEDS_ROOM;

    mutex_lock(&reading->lock);
    if (queue->count < queue->capacity) {
        arrival = ARRIVAL_QUEUED;
        queue->first = (queue->first + queue->capacity - 1) & (queue->capacity - 1);
        queue->items[queue->first] = item;
        queue->count++;
        tell_takers(reading, queue, told);
    }
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return arrival;
}

ReadingItem *
reading_enlarge(Reading *reading, ReadingQueue *queue, ReadingItem *larger, size_t capacity)
{
    ReadingItem *unused = larger;

    mutex_lock(&reading->lock);
    if (capacity > queue->capacity) {
        for (size_t i = 0; i < queue->count; i++) {
            larger[i] = queue->items[(queue->first + i) & (queue->capacity - 1)];
        }
        unused = queue->items;
        queue->items = larger;
        queue->capacity = capacity;
        queue->first = 0;
    }
    mutex_unlock(&reading->lock);
    return unused;
}

static Take
take(const Reading *reading, ReadingQueue *queue, ReadingItem *item)
{
    if (queue->count > 0) {
        *item = pop(queue);
        return TAKE_ITEM;
    }
    return queue->ended || reading->stopped ? TAKE_END : TAKE_NONE;
}

Take
reading_take(Reading *reading, ReadingQueue *queue, ReadingItem *item)
{
    mutex_lock(&reading->lock);
    Take taken = take(reading, queue, item);
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return taken;
}

static void
end(Reading *reading, ReadingQueue *queue, Told *told)
{
    queue->ended = true;
    reading->callbacks -= queue->callback == CALLBACK_DIRECT;
    tell_all(reading, queue, told);
}

bool
reading_end(Reading *reading, ReadingQueue *queue, Told *told)
{
    mutex_lock(&reading->lock);
    bool ends = !queue->ended;
    if (ends) {
        end(reading, queue, told);
    }
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return ends;
}

bool
reading_end_plain(Reading *reading, ReadingQueue *queue, Told *told)
{
    mutex_lock(&reading->lock);
    bool is_plain = queue->callback == CALLBACK_NONE;
    if (is_plain) {
        end(reading, queue, told);
    }
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return is_plain;
}

bool
reading_begin_callback(Reading *reading, ReadingQueue *queue, void *function, void *marker)
{
    mutex_lock(&reading->lock);
    bool begins = queue->callback == CALLBACK_NONE;
    if (begins) {
        queue->callback = CALLBACK_DRAINING;
        queue->function = function;
        queue->marker = marker;
    }
    mutex_unlock(&reading->lock);
    return begins;
}

Take
reading_next_for_callback(Reading *reading, ReadingQueue *queue, ReadingItem *item)
{
    mutex_lock(&reading->lock);
    Take taken = take(reading, queue, item);
    if (taken != TAKE_ITEM) {
        queue->callback = CALLBACK_DIRECT;
        reading->callbacks += !queue->ended;
    }
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return taken;
}

void
reading_abandon_callback(Reading *reading, ReadingQueue *queue, void **function, void **marker)
{
    mutex_lock(&reading->lock);
    reading->callbacks -= queue->callback == CALLBACK_DIRECT && !queue->ended;
    queue->callback = CALLBACK_NONE;
    *function = queue->function;
    *marker = queue->marker;
    queue->function = queue->marker = NULL;
    reading_check(reading);
    mutex_unlock(&reading->lock);
}

void *
reading_function(Reading *reading, const ReadingQueue *queue)
{
    mutex_lock(&reading->lock);
    void *function = queue->callback == CALLBACK_NONE ? NULL : held(reading, queue);
    mutex_unlock(&reading->lock);
    return function;
}

void *
reading_take_marker(Reading *reading, ReadingQueue *queue)
{
    void *marker = NULL;

    mutex_lock(&reading->lock);
    if (queue->callback != CALLBACK_DRAINING && !queue->calling) {
        marker = queue->marker;
        queue->marker = NULL;
    }
    mutex_unlock(&reading->lock);
    return marker;
}

/* ---- a thread that waits ---- */

static void
link_thread(Reading *reading, ReadingThread *thread)
{
    ReadingThread **link = &reading->waiting;

    while (*link != NULL) {
        link = &(*link)->next;
    }
    *link = thread;
    thread->next = NULL;
    thread->state = THREAD_AWAKE;
    thread->watches = false;
}

/* The role is not the thread's: take it, watch, or sleep. */
static ReadingNext
next_without_role(Reading *reading, ReadingThread *thread)
{
    bool may_take = is_free(reading) && thread->can_read && !reading->stopping;
    bool was_used = thread->watches && thread->seen != reading->uses;
    bool must_watch = was_used || (reading->yields && !thread->watches);

    if (may_take && !must_watch) {
        take_role(reading, thread);
        return NEXT_READ;
    }
    thread->watches = may_take || was_used;
    thread->seen = reading->uses;
    thread->state = thread->watches ? THREAD_WATCHING : THREAD_ASLEEP;
    return thread->watches ? NEXT_WATCH : NEXT_SLEEP;
}

static ReadingNext
next(Reading *reading, ReadingThread *thread, ReadingItem *item, Told *told)
{
    if (is_satisfied(reading, thread)) {
        Take taken = thread->for_end ? TAKE_END : take(reading, thread->queue, item);
        leave(reading, thread, told);
        return taken == TAKE_ITEM ? NEXT_TAKE_ITEM : NEXT_TAKE_END;
    }
    if (reading->reader == thread && !reading->stopping) {
        return NEXT_READ;
    }
    if (reading->reader == thread) {
        leave_role(reading, told);
    }
    return next_without_role(reading, thread);
}

ReadingNext
reading_enter(Reading *reading, ReadingThread *thread, ReadingItem *item, Told *told)
{
    mutex_lock(&reading->lock);
    link_thread(reading, thread);
    ReadingNext now = next(reading, thread, item, told);
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return now;
}

ReadingNext
reading_next(Reading *reading, ReadingThread *thread, ReadingItem *item, Told *told)
{
    mutex_lock(&reading->lock);
    ReadingNext now = next(reading, thread, item, told);
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return now;
}

bool
reading_poll(Reading *reading, ReadingThread *thread)
{
    mutex_lock(&reading->lock);
    bool polls = !is_satisfied(reading, thread) && !reading->stopping;
    if (polls) {
        thread->state = THREAD_POLLING;
    }
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return polls;
}

bool
reading_woke(Reading *reading, ReadingThread *thread)
{
    mutex_lock(&reading->lock);
    bool was_told = thread->sleeper.told;
    thread->sleeper.told = false;
    thread->state = THREAD_AWAKE;
    mutex_unlock(&reading->lock);
    return was_told;
}

void
reading_hand_over(Reading *reading, ReadingThread *thread, Told *told)
{
    mutex_lock(&reading->lock);
    assert(reading->reader == thread);
    (void)thread;
    name_reader(reading, &reading->receiver, told);
    reading_check(reading);
    mutex_unlock(&reading->lock);
}

void
reading_quit(Reading *reading, ReadingThread *thread, Told *told)
{
    mutex_lock(&reading->lock);
    leave(reading, thread, told);
    reading_check(reading);
    mutex_unlock(&reading->lock);
}

size_t
reading_list(Reading *reading, ReadingWaiter *to, size_t most)
{
    size_t count = 0;

    mutex_lock(&reading->lock);
    for (ReadingThread *thread = reading->waiting; thread != NULL && count < most;
         thread = thread->next) {
        to[count++] = (ReadingWaiter){thread->ident, thread->queue, thread->for_end};
    }
    mutex_unlock(&reading->lock);
    return count;
}

/* ---- the receiver ---- */

static ReadingNext
receiver_next(Reading *reading)
{
    ReadingThread *receiver = &reading->receiver;
    bool used = receiver->seen != reading->uses;

    receiver->state = THREAD_AWAKE;
    if (reading->reader == NULL && (!used || receiver_comes_first(reading))) {
        take_role(reading, receiver);
    }
    receiver->seen = reading->uses;
    reading->yields = false;
    if (reading->reader == receiver) {
        return NEXT_READ;
    }
    receiver->state = used ? THREAD_WATCHING : THREAD_ASLEEP;
    return used ? NEXT_WATCH : NEXT_SLEEP;
}

ReadingNext
reading_receiver_next(Reading *reading)
{
    mutex_lock(&reading->lock);
    ReadingNext next = reading->stopped ? NEXT_TAKE_END : receiver_next(reading);
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return next;
}

bool
reading_receiver_back(Reading *reading)
{
    mutex_lock(&reading->lock);
    bool has_role = !reading->stopped && receiver_next(reading) == NEXT_READ;
    reading->receiver.state = THREAD_AWAKE;
    reading_check(reading);
    mutex_unlock(&reading->lock);
    return has_role;
}

bool
reading_receiver_woke(Reading *reading)
{
    return reading_woke(reading, &reading->receiver);
}

void
reading_receiver_done(Reading *reading, Told *told)
{
    mutex_lock(&reading->lock);
    assert(reading->reader == &reading->receiver);
    if (reading->waiting != NULL && !receiver_comes_first(reading)) {
        /* The threads that were served will be back soon. */
        leave_role(reading, told);
        reading->receiver.seen = reading->uses - 1;
    }
    reading_check(reading);
    mutex_unlock(&reading->lock);
}

void
reading_receiver_away(Reading *reading, bool yields, Told *told)
{
    mutex_lock(&reading->lock);
    assert(reading->reader == &reading->receiver);
    reading->receiver.state = THREAD_AWAY;
    reading->yields = yields;
    reading->uses++;
    have_somebody_look(reading, told);
    reading_check(reading);
    mutex_unlock(&reading->lock);
}

void
reading_stop(Reading *reading, Told *told)
{
    mutex_lock(&reading->lock);
    reading->stopping = true;
    reading->yields = false;
    reading->receiver.state = THREAD_AWAKE;
    if (reading->reader != NULL) {
        tell(reading->reader, told);
    }
    reading_check(reading);
    mutex_unlock(&reading->lock);
}

void
reading_stopped(Reading *reading, Told *told)
{
    mutex_lock(&reading->lock);
    reading->stopping = reading->stopped = true;
    tell_all(reading, NULL, told);
    reading_check(reading);
    mutex_unlock(&reading->lock);
}
