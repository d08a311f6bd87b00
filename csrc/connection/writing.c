/* Who writes to a connection: the machine behind send() and what finalizers leave.

   One thread at a time is the writer. Messages are whole, in the order in which their threads
   became writers. A thread whose turn it is not sleeps until the writer has left; then the first
   that sleeps is told, but whoever comes first is the next writer: to hand the turn on would make
   two busy threads wait for each other at every message. Only when those that wait have been
   overtaken often, the turn is kept for the first of them. It is nobody's until that thread comes:
   it may have to wait for the GIL, for ever where C code does not give it back. A thread that
   answers for such a process has no GIL and can't wait: it may write even when the turn is kept for
   another one.

   Python code never runs in the writer. A signal in the middle of a large message makes the writer
   give its turn, and the rest of the message, to the helper: a thread of the connection's own that
   is started for it. The interrupted thread runs the handlers and then waits, as any other, until
   the helper has left; a handler that sends does the same.

   A finalizer must not wait: it leaves a small message behind. Whoever leaves as the writer takes
   those along for which there is room; for the rest, if nobody else is about to write, it starts
   the helper, which waits for room.

   What always holds (writing_check asserts it after every transition):

   1. Nobody writes, and some waiting threads may => at least one of these is awake.
   2. Small messages are left => there is a writer, or a thread that waits, or the helper (until
   `failed`; but if no helper could be had, they are `alone` until somebody leaves as the writer).
   3. A message is unfinished => the helper is there, and the writer.
   4. After `failed` nobody becomes the writer but a thread that wants to close the descriptor;
   another for which the turn is kept quits.
   5. The turn is kept for a thread that waits; only that one may write then.

   The lock is held for a few lines at a time; nothing under it waits, allocates or runs Python. */
#include "connection/writing.h"

#include <assert.h>

#ifdef EXECNET_MODEL
enum { MOST_OVERTAKEN = 1 };
#else
enum { MOST_OVERTAKEN = 16 };
#endif

/* Whether it would be the thread's turn, if it were nobody's. */
static bool
could_write(const Writing *writing, const WritingThread *thread)
{
    return !thread->ends || !writing->helps;
}

/* Whether it is nobody's turn, nor kept for another thread. */
static bool
is_free_for(const Writing *writing, const WritingThread *thread)
{
    return writing->writer == NULL && (writing->kept_for == NULL || writing->kept_for == thread);
}

static bool
may_write(const Writing *writing, const WritingThread *thread)
{
    return is_free_for(writing, thread) && could_write(writing, thread);
}

/* The first of the threads that may write, if they all sleep. */
static WritingThread *
first_overslept(const Writing *writing)
{
    WritingThread *first = NULL;

    for (WritingThread *thread = writing->waiting; thread != NULL; thread = thread->next) {
        if (may_write(writing, thread)) {
            if (!thread->sleeps) {
                return NULL;
            }
            first = first != NULL ? first : thread;
        }
    }
    return first;
}

#ifdef NDEBUG
#define writing_check(writing) ((void)(writing))
#else
static void
writing_check(const Writing *writing)
{
    assert(first_overslept(writing) == NULL);
    assert(writing->small == NULL || writing->writer != NULL || writing->waiting != NULL ||
           writing->helps || writing->alone || writing->failed);
    assert(!writing->alone || writing->small != NULL || writing->writer != NULL || writing->failed);
    assert(writing->kept_for == NULL || writing->kept_for->waits);
    assert(!writing->unfinished || (writing->helps && writing->writer == &writing->helper));
    for (const WritingThread *thread = writing->waiting; thread != NULL; thread = thread->next) {
        assert(thread->waits && thread != writing->writer);
        assert(!thread->sleeps || !thread->sleeper.told);
    }
}
#endif

/* ---- who waits ---- */

static void
link_thread(Writing *writing, WritingThread *thread)
{
    WritingThread **link = &writing->waiting;

    while (*link != NULL) {
        link = &(*link)->next;
    }
    *link = thread;
    thread->next = NULL;
    thread->waits = true;
}

static void
unlink_thread(Writing *writing, WritingThread *thread)
{
    WritingThread **link = &writing->waiting;

    if (thread->waits) {
        while (*link != thread) {
            link = &(*link)->next;
        }
        *link = thread->next;
        thread->waits = false;
        writing->kept_for = NULL;
    }
}

/* It is nobody's turn: see to it that one of those that wait looks. */
static void
have_somebody_look(Writing *writing, Told *told)
{
    WritingThread *thread = first_overslept(writing);

    if (thread != NULL) {
        thread->sleeps = false;
        sleeper_tell(&thread->sleeper, false, told);
    }
}

/* A thread goes that might have taken the small messages along. */
static Leave
look_after_small(Writing *writing)
{
    if (writing->small == NULL || writing->writer != NULL || writing->waiting != NULL ||
        writing->helps || writing->failed) {
        return LEAVE_DONE;
    }
    writing->helps = HELPER_STARTING;
    return LEAVE_START_HELPER;
}

/* ---- beginning and forking ---- */

void
writing_init(Writing *writing)
{
    mutex_init(&writing->lock);
}

void
writing_disown(Writing *writing)
{
    mutex_init(&writing->lock);
    writing->writer = writing->waiting = writing->kept_for = NULL;
    writing->unfinished = false;
    writing->closed = writing->failed = true;
}

/* ---- turns ---- */

/* It is nobody's turn: now it is the thread's. */
static void
take_turn(Writing *writing, WritingThread *thread)
{
    bool waited = thread->waits;

    unlink_thread(writing, thread);
    writing->writer = thread;
    writing->overtaken = waited || writing->waiting == NULL ? 0 : writing->overtaken + 1;
}

static WritingThread *
first_that_could_write(const Writing *writing)
{
    WritingThread *thread = writing->waiting;

    while (thread != NULL && !could_write(writing, thread)) {
        thread = thread->next;
    }
    return thread;
}

/* If those that wait were overtaken often enough, the next turn is the first one's. */
static void
keep_turn(Writing *writing)
{
    if (writing->overtaken >= MOST_OVERTAKEN) {
        writing->kept_for = first_that_could_write(writing);
    }
}

static Turn
next(Writing *writing, WritingThread *thread, Want want)
{
    if (want != WANT_END && (writing->failed || (writing->closed && want == WANT_MESSAGE))) {
        return TURN_CLOSED;
    }
    thread->ends = want == WANT_END;
    if (may_write(writing, thread)) {
        take_turn(writing, thread);
        return TURN_WRITE;
    }
    if (!thread->waits) {
        link_thread(writing, thread);
    }
    thread->sleeps = true;
    return TURN_SLEEP;
}

Turn
writing_next(Writing *writing, WritingThread *thread, Want want)
{
    mutex_lock(&writing->lock);
    Turn turn = next(writing, thread, want);
    writing_check(writing);
    mutex_unlock(&writing->lock);
    return turn;
}

static bool
take_turn_if(Writing *writing, WritingThread *thread, bool is_free)
{
    if (!is_free || writing->closed || writing->failed) {
        return false;
    }
    take_turn(writing, thread);
    return true;
}

bool
writing_try(Writing *writing, WritingThread *thread)
{
    mutex_lock(&writing->lock);
    bool taken = take_turn_if(writing, thread, is_free_for(writing, thread));
    writing_check(writing);
    mutex_unlock(&writing->lock);
    return taken;
}

bool
writing_try_now(Writing *writing, WritingThread *thread)
{
    mutex_lock(&writing->lock);
    bool taken = take_turn_if(writing, thread, writing->writer == NULL);
    writing_check(writing);
    mutex_unlock(&writing->lock);
    return taken;
}

bool
writing_woke(Writing *writing, WritingThread *thread)
{
    mutex_lock(&writing->lock);
    bool was_told = thread->sleeper.told;
    thread->sleeper.told = false;
    thread->sleeps = false;
    mutex_unlock(&writing->lock);
    return was_told;
}

void
writing_rename(Writing *writing, WritingThread *from, WritingThread *to)
{
    mutex_lock(&writing->lock);
    assert(writing->writer == from);
    (void)from;
    writing->writer = to;
    mutex_unlock(&writing->lock);
}

static Leave
leave(Writing *writing, WritingThread *thread, bool full, Told *told)
{
    assert(writing->writer == thread);
    (void)thread;
    if (writing->small != NULL && !full) {
        return LEAVE_SMALL;
    }
    writing->writer = NULL;
    writing->alone = false;
    keep_turn(writing);
    have_somebody_look(writing, told);
    return look_after_small(writing);
}

Leave
writing_leave(Writing *writing, WritingThread *thread, bool full, Told *told)
{
    mutex_lock(&writing->lock);
    /* Until the helper has written it, nobody else is the writer. */
    writing->unfinished = false;
    Leave left = leave(writing, thread, full, told);
    writing_check(writing);
    mutex_unlock(&writing->lock);
    return left;
}

Leave
writing_quit(Writing *writing, WritingThread *thread, Told *told)
{
    mutex_lock(&writing->lock);
    unlink_thread(writing, thread);
    have_somebody_look(writing, told);
    Leave left = look_after_small(writing);
    writing_check(writing);
    mutex_unlock(&writing->lock);
    return left;
}

Hand
writing_hand_over(Writing *writing, WritingThread *thread)
{
    Hand hand = HAND_NOT_NOW;

    mutex_lock(&writing->lock);
    assert(writing->writer == thread);
    (void)thread;
    if (writing->helps != HELPER_STARTING) {
        hand = writing->helps == HELPER_NONE ? HAND_START : HAND_DONE;
        writing->writer = &writing->helper;
        writing->unfinished = true;
        /* If it can't be started, the turn comes back before anybody asks. */
        writing->helps = HELPER_THERE;
    }
    writing_check(writing);
    mutex_unlock(&writing->lock);
    return hand;
}

void
writing_no_helper(Writing *writing, WritingThread *thread, Told *told)
{
    mutex_lock(&writing->lock);
    if (writing->unfinished) {
        writing->writer = thread;
        writing->unfinished = false;
    }
    writing->helps = HELPER_NONE;
    writing->alone = writing->small != NULL;
    have_somebody_look(writing, told);
    writing_check(writing);
    mutex_unlock(&writing->lock);
}

void
writing_fail(Writing *writing)
{
    mutex_lock(&writing->lock);
    writing->failed = true;
    mutex_unlock(&writing->lock);
}

/* ---- small messages ---- */

Behind
writing_leave_behind(Writing *writing, WritingThread *thread, WritingSmall *small)
{
    Behind behind = BEHIND_LOST;

    mutex_lock(&writing->lock);
    if (!writing->closed && !writing->failed) {
        small->next = NULL;
        if (writing->small == NULL) {
            writing->small = small;
        } else {
            writing->last_small->next = small;
        }
        writing->last_small = small;
        behind = BEHIND_LEFT;
        if (writing->writer == NULL && writing->waiting == NULL) {
            writing->writer = thread;
            behind = BEHIND_WRITE;
        }
    }
    writing_check(writing);
    mutex_unlock(&writing->lock);
    return behind;
}

WritingSmall *
writing_take_small(Writing *writing)
{
    mutex_lock(&writing->lock);
    WritingSmall *small = writing->small;
    if (small != NULL) {
        writing->small = small->next;
    }
    mutex_unlock(&writing->lock);
    return small;
}

/* ---- the helper ---- */

Help
writing_help(Writing *writing, Told *told)
{
    Help help = HELP_END;

    mutex_lock(&writing->lock);
    writing->helps = HELPER_THERE;
    if (writing->unfinished) {
        help = HELP_REST;
    } else if (writing->small != NULL && writing->writer == NULL) {
        writing->writer = &writing->helper;
        help = HELP_SMALL;
    } else {
        /* Where somebody else writes, he looks after them. */
        writing->helps = HELPER_NONE;
        have_somebody_look(writing, told);
    }
    writing_check(writing);
    mutex_unlock(&writing->lock);
    return help;
}

/* ---- the end ---- */

void
writing_close(Writing *writing)
{
    mutex_lock(&writing->lock);
    writing->closed = true;
    mutex_unlock(&writing->lock);
}

Leave
writing_end(Writing *writing, WritingThread *thread, Told *told)
{
    Leave left = LEAVE_SMALL;

    mutex_lock(&writing->lock);
    assert(writing->closed && !writing->helps);
    if (writing->small == NULL) {
        left = leave(writing, thread, true, told);
    }
    writing_check(writing);
    mutex_unlock(&writing->lock);
    return left;
}
