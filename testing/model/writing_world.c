/* Worlds for the machine of writing.c: threads that send, those that leave small messages, the
   helper and the end, as in sending.c, over a pipe that takes so many parts of messages. */
#include "explore.h"

#include "connection/writing.h"

#include <stdio.h>
#include <string.h>

enum {
    PROGRAMS = 4,
    HELPERS = 2,
    OUTSIDE = 0,
    FIRST = 1,
    FIRST_HELPER = FIRST + PROGRAMS,
    ACTORS = FIRST_HELPER + HELPERS,
    MOST_OVERTAKEN = 1,
    AT_ONCE = 2, /* small messages in one write */
};

/* ---- what a world is made of ---- */

typedef enum {
    P_NOTHING,
    P_SEND,
    P_FINALIZE, /* send_soon */
    P_STATUS,   /* send_now, and then send_what_is_left */
    P_END,
    P_FORK,
} ProgramKind;

enum {
    SIGNALS = 1, /* is the main thread */
    TIMEOUT = 2, /* the end's time may be over */
    AGAIN = 4,   /* does it twice */
};

typedef struct {
    ProgramKind kind;
    int parts; /* of its message */
    int flags;
    int inside; /* runs only in a handler of that actor */
} Program;

typedef struct {
    const char *name;
    bool is_short;
    int room; /* parts that the pipe holds */
    bool starts_may_fail, may_die, no_memory;
    Program programs[PROGRAMS];
} Spec;

typedef enum {
    IDLE,
    GONE,
    S_SIGNALS,
    S_RENAME,
    S_HANDLER,
    S_NEXT,
    S_SLEEP,
    S_SLEPT,
    S_TAKE_WAKEUP,
    S_QUIT,
    S_WRITE,
    S_HAND_OVER,
    S_START,
    S_NO_HELPER,
    /* Leaving the turn, by anybody. */
    L_LEAVE,
    L_ROOM,
    L_TAKE,
    L_WRITE,
    L_START,
    L_NO_HELPER,
    /* Others. */
    N_WRITE,
    N_LEFT,
    E_END,
    E_AGAIN,
    H_HELP,
    H_REST,
    H_LEFT,
    H_ROOM,
    F_DISOWN,
} Place;

static const char *const place_names[] = {
    [IDLE] = "begins",
    [GONE] = "is gone",
    [S_SIGNALS] = "looks for signals",
    [S_RENAME] = "has its turn",
    [S_HANDLER] = "is in a handler",
    [S_NEXT] = "next",
    [S_SLEEP] = "sleeps",
    [S_SLEPT] = "has slept",
    [S_TAKE_WAKEUP] = "takes its wake-up",
    [S_QUIT] = "quits",
    [S_WRITE] = "writes",
    [S_HAND_OVER] = "hands over",
    [S_START] = "starts the helper",
    [S_NO_HELPER] = "does without a helper",
    [L_LEAVE] = "leaves",
    [L_ROOM] = "looks for room",
    [L_TAKE] = "takes a small message",
    [L_WRITE] = "writes small messages",
    [L_START] = "starts a helper",
    [L_NO_HELPER] = "does without a helper",
    [N_WRITE] = "writes the answer",
    [N_LEFT] = "sends what is left",
    [E_END] = "ends",
    [E_AGAIN] = "looks at the time",
    [H_HELP] = "helper: helps",
    [H_REST] = "helper: writes the rest",
    [H_LEFT] = "helper: has left",
    [H_ROOM] = "helper: waits for room",
    [F_DISOWN] = "disowns",
};

typedef struct {
    bool released, is_there;
} Wakeup;

typedef struct {
    WritingThread thread; /* while it waits */
    WritingThread turn;   /* while it is the writer */
    Told told;
    WritingSmall small; /* its memory, where it is a finalizer's */
    Wakeup wakeup;
    uint8_t place, after_leave;
    uint8_t written; /* parts of its message */
    uint8_t taken;   /* small messages, to be written at once */
    uint8_t rounds;
    bool is_rest; /* waits for the rest of its message */
    bool woken, full, helped, will_not_look;
    uint8_t small_state;
} Actor;

typedef enum { SMALL_NONE, SMALL_LEFT, SMALL_TAKEN, SMALL_WRITTEN, SMALL_LOST } SmallState;

typedef struct {
    Writing writing;
    Actor actors[ACTORS];
    uint8_t room;
    uint8_t partial;       /* whose message is half written, + 1 */
    uint8_t partial_parts; /* of it on the wire */
    uint8_t rest;          /* whose rest is the helper's, + 1 */
    uint8_t rest_written;
    uint8_t order[PROGRAMS]; /* small messages in the order in which they were left */
    uint8_t orders;
    uint8_t batch[AT_ONCE];
    uint8_t overtakes; /* turns that did not wait, while others did, since one of those had his */
    uint8_t overtaken; /* how often the first was that could write */
    uint8_t first;     /* that one, + 1 */
    bool dead, errored, closed, ended, forked;
    bool alone; /* nobody looks after what is small, until there is a writer */
} World;

static union {
    World world;
    uint64_t words[(sizeof(World) + 7) / 8];
} memory;
static World *const w = &memory.world;
static const Spec *spec;

/* ---- ghosts ---- */

static int
actor_number(const Actor *actor)
{
    return (int)(actor - w->actors);
}

static const Program *
program_of(const Actor *actor)
{
    static const Program none;
    int number = actor_number(actor);

    return number >= FIRST && number < FIRST_HELPER ? &spec->programs[number - FIRST] : &none;
}

static bool
is_helper(const Actor *actor)
{
    return actor_number(actor) >= FIRST_HELPER;
}

static WritingThread *
node_of(Actor *actor)
{
    if (is_helper(actor)) {
        return &w->writing.helper;
    }
    return program_of(actor)->kind == P_END ? &actor->thread : &actor->turn;
}

static Step
go(Actor *actor, Place place)
{
    actor->place = (uint8_t)place;
    return STEP_CERTAIN;
}

static void
touch(void)
{
    explore_expect(!w->ended, "the descriptor is used after its end");
}

/* One part goes into the pipe, of the message of that actor. */
static void
put_part(int owner, int parts)
{
    explore_expect(w->partial == 0 || w->partial == owner + 1, "a message is written into another");
    w->room--;
    w->partial = (uint8_t)(owner + 1);
    if (++w->partial_parts == parts) {
        w->partial = w->partial_parts = 0;
    }
}

static void
fail(void)
{
    w->errored = true;
    w->partial = w->partial_parts = 0;
    writing_fail(&w->writing);
}

static void
wake_first(Actor *actor)
{
    Sleeper *sleeper = actor->told;
    Wakeup *wakeup = sleeper->wakeup;

    actor->told = sleeper->next_told;
    sleeper->next_told = NULL;
    explore_expect(wakeup != NULL && wakeup->is_there, "a thread is woken that is gone");
    explore_expect(!wakeup->released, "a thread is woken twice");
    explore_expect(!sleeper->by_waker, "a writer is woken by the waker");
    wakeup->released = true;
}

/* ---- waiting for the turn ---- */

static void
begin_to_wait(Actor *actor)
{
    actor->thread.sleeper.wakeup = &actor->wakeup;
    actor->wakeup.is_there = true;
}

static void
wait_no_longer(Actor *actor)
{
    explore_expect(!actor->wakeup.released, "a wake-up is left that was not taken");
    actor->wakeup.is_there = false;
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
writes(Actor *actor)
{
    explore_expect(!w->ended, "a thread writes after the end");
    return go(actor, S_WRITE);
}

/* Leave the turn, and then go on at that place. */
static Step
leaves(Actor *actor, Place then)
{
    actor->full = false;
    actor->after_leave = (uint8_t)then;
    return go(actor, L_LEAVE);
}

static void
see_turn(bool waited)
{
    bool overtakes = !waited && w->writing.waiting != NULL;

    w->overtakes = overtakes ? w->overtakes + (w->overtakes < 2) : 0;
}

static Step
await_next(Actor *actor)
{
    ProgramKind kind = program_of(actor)->kind;
    Want want = kind == P_END ? WANT_END : actor->is_rest ? WANT_REST : WANT_MESSAGE;

    bool waited = actor->thread.waits;

    switch (writing_next(&w->writing, &actor->thread, want)) {
    case TURN_WRITE:
        see_turn(waited);
        if (kind == P_END) {
            explore_expect(w->writing.helps == HELPER_NONE,
                           "the end comes before that of the helper");
            return go(actor, L_ROOM);
        }
        explore_expect(actor->is_rest || !w->closed, "a message is begun after the end");
        return go(actor, S_RENAME);
    case TURN_CLOSED:
        explore_expect(w->closed || w->errored || w->forked, "nothing can be written, but why?");
        explore_expect(!actor->is_rest || w->errored || w->forked,
                       "a message is called unsent that was sent");
        explore_expect(kind != P_END, "the end is refused");
        actor->will_not_look = true;
        return go(actor, S_QUIT);
    case TURN_SLEEP:
        return go(actor, S_SLEEP);
    }
    return STEP_BLOCKED;
}

static Step
rename_turn(Actor *actor)
{
    writing_rename(&w->writing, &actor->thread, &actor->turn);
    wait_no_longer(actor);
    if (actor->is_rest) {
        explore_expect(w->rest != actor_number(actor) + 1, "the rest is not written yet");
        return leaves(actor, GONE);
    }
    return writes(actor);
}

static Step
await_sleep(Actor *actor)
{
    actor->woken = false;
    if (explore_choose(2) == 0) {
        if (!actor->wakeup.released) {
            return STEP_BLOCKED;
        }
        actor->wakeup.released = false;
        actor->woken = true;
        return go(actor, S_SLEPT);
    }
    if ((program_of(actor)->flags & (SIGNALS | TIMEOUT)) == 0) {
        return STEP_BLOCKED;
    }
    (void)go(actor, S_SLEPT);
    return STEP_OPTIONAL;
}

static Step
await_slept(Actor *actor)
{
    bool was_told = writing_woke(&w->writing, &actor->thread);

    explore_expect(was_told || !actor->woken, "a thread was woken that was not told");
    if (was_told && !actor->woken) {
        return go(actor, S_TAKE_WAKEUP);
    }
    return go(actor, actor->woken ? S_NEXT : S_QUIT);
}

static Step
after_leave(Actor *actor, Leave left, Place then)
{
    explore_expect(left != LEAVE_SMALL, "a thread that quits is to write");
    actor->after_leave = (uint8_t)then;
    return go(actor, left == LEAVE_START_HELPER ? L_START : then);
}

static Step
await_quit(Actor *actor)
{
    Leave left = writing_quit(&w->writing, &actor->thread, &actor->told);

    explore_expect(!actor->thread.sleeper.told, "a thread quits that was told");
    if (actor->will_not_look) {
        wait_no_longer(actor);
        return after_leave(actor, left, GONE);
    }
    return after_leave(actor, left, program_of(actor)->kind == P_END ? E_AGAIN : S_SIGNALS);
}

static Step
signals(Actor *actor)
{
    if (program_of(actor)->flags & SIGNALS) {
        Actor *handler = handler_of(actor);
        switch (explore_choose(3)) {
        case 1: /* It raised. */
            wait_no_longer(actor);
            (void)go(actor, GONE);
            return STEP_OPTIONAL;
        case 2:
            if (handler == NULL || handler->place != IDLE) {
                return STEP_BLOCKED;
            }
            (void)go(actor, S_HANDLER);
            return STEP_OPTIONAL;
        default:
            break;
        }
    }
    return await_next(actor);
}

/* ---- a message ---- */

static Step
send_part(Actor *actor)
{
    int parts = program_of(actor)->parts;
    bool looks = (program_of(actor)->flags & SIGNALS) && !actor->helped;

    touch();
    if (explore_choose(2) == 1) { /* There may be a signal. */
        if (!looks) {
            return STEP_BLOCKED;
        }
        if (actor->written > 0) {
            (void)go(actor, S_HAND_OVER);
        } else {
            begin_to_wait(actor);
            (void)leaves(actor, S_SIGNALS);
        }
        return STEP_OPTIONAL;
    }
    if (w->dead) {
        fail();
        return leaves(actor, GONE);
    }
    if (w->room == 0) {
        return STEP_BLOCKED;
    }
    put_part(actor_number(actor), parts);
    if (++actor->written == parts) {
        return leaves(actor, GONE);
    }
    return STEP_CERTAIN;
}

static bool
start_helper(void)
{
    for (int i = FIRST_HELPER; i < ACTORS; i++) {
        if (w->actors[i].place == GONE && w->actors[i].told == NULL) {
            w->actors[i].place = H_HELP;
            return true;
        }
    }
    explore_violation("there are too many helpers");
}

static bool
somebody_starts_helper(void)
{
    for (int i = FIRST; i < ACTORS; i++) {
        uint8_t place = w->actors[i].place;
        if (place == L_START || place == L_NO_HELPER || (place == H_HELP && i >= FIRST_HELPER)) {
            return true;
        }
    }
    return false;
}

static Step
hand_over(Actor *actor)
{
    if (spec->no_memory && explore_choose(2) == 1) {
        actor->helped = true; /* It finishes itself. */
        return go(actor, S_WRITE);
    }
    explore_expect(w->rest == 0, "a rest is handed over before another is written");
    w->rest = (uint8_t)(actor_number(actor) + 1);
    w->rest_written = actor->written;
    switch (writing_hand_over(&w->writing, &actor->turn)) {
    case HAND_START:
        return go(actor, S_START);
    case HAND_NOT_NOW:
        explore_expect(somebody_starts_helper(), "a rest is not handed over, but why?");
        w->rest = w->rest_written = 0;
        return go(actor, S_WRITE);
    case HAND_DONE:
        break;
    }
    memset(&actor->thread, 0, sizeof actor->thread);
    actor->is_rest = true;
    begin_to_wait(actor);
    return go(actor, S_SIGNALS);
}

static Step
start_for_rest(Actor *actor)
{
    if (spec->starts_may_fail && explore_choose(2) == 1) {
        return go(actor, S_NO_HELPER);
    }
    (void)start_helper();
    memset(&actor->thread, 0, sizeof actor->thread);
    actor->is_rest = true;
    begin_to_wait(actor);
    return go(actor, S_SIGNALS);
}

/* ---- leaving ---- */

/* The next turn may be kept for a thread. */
static void
see_left(void)
{
    if (w->writing.kept_for != NULL) {
        explore_expect(w->overtakes > 0, "the turn is kept though nobody was overtaken");
    }
}

static Step
leave(Actor *actor)
{
    Leave left = writing_leave(&w->writing, node_of(actor), actor->full, &actor->told);

    if (left != LEAVE_SMALL) {
        w->alone = false;
        see_left();
    }
    switch (left) {
    case LEAVE_SMALL:
        return go(actor, L_ROOM);
    case LEAVE_START_HELPER:
        explore_expect(!is_helper(actor), "the helper is to start a helper");
        return go(actor, L_START);
    default:
        return go(actor, (Place)actor->after_leave);
    }
}

static Step
small_written(Actor *actor, bool full)
{
    actor->full = full;
    return go(actor, program_of(actor)->kind == P_END && actor->rounds == 0 ? E_END : L_LEAVE);
}

/* write_small */
static Step
look_for_room(Actor *actor)
{
    touch();
    if (!w->errored && w->room == 0 && !w->dead) {
        return small_written(actor, true);
    }
    actor->taken = 0;
    return go(actor, L_TAKE);
}

static int
owner_of(const WritingSmall *small)
{
    for (int i = FIRST; i < FIRST_HELPER; i++) {
        if (small == &w->actors[i].small) {
            return i;
        }
    }
    explore_violation("a small message is nobody's");
}

static Step
take_small(Actor *actor)
{
    WritingSmall *small = writing_take_small(&w->writing);

    if (small == NULL) {
        return actor->taken == 0 ? small_written(actor, false) : go(actor, L_WRITE);
    }
    int owner = owner_of(small);
    explore_expect(w->actors[owner].small_state == SMALL_LEFT, "a small message is taken twice");
    explore_expect(w->order[0] == owner, "small messages are out of order");
    memmove(w->order, w->order + 1, sizeof w->order - 1);
    w->order[sizeof w->order - 1] = 0;
    w->orders--;
    w->actors[owner].small_state = SMALL_TAKEN;
    w->batch[actor->taken++] = (uint8_t)owner;
    return actor->taken == AT_ONCE ? go(actor, L_WRITE) : STEP_CERTAIN;
}

static Step
write_small(Actor *actor)
{
    touch();
    if (!w->errored) {
        if (w->dead) {
            fail();
        } else {
            explore_expect(w->room > 0, "who must not wait, waits for room");
            put_part(w->batch[0], 1);
        }
    }
    for (int i = 0; i < actor->taken; i++) {
        w->actors[w->batch[i]].small_state = w->errored ? SMALL_LOST : SMALL_WRITTEN;
    }
    memset(w->batch, 0, sizeof w->batch);
    actor->taken = 0;
    return go(actor, L_ROOM);
}

static Step
start_for_small(Actor *actor)
{
    /* Who holds no GIL starts no thread. */
    if (program_of(actor)->kind == P_STATUS && actor->after_leave == N_LEFT) {
        return go(actor, L_NO_HELPER);
    }
    if (spec->starts_may_fail && explore_choose(2) == 1) {
        return go(actor, L_NO_HELPER);
    }
    (void)start_helper();
    return go(actor, (Place)actor->after_leave);
}

/* ---- the others ---- */

static bool
is_writing(const Actor *actor)
{
    switch ((Place)actor->place) {
    case S_RENAME:
    case S_WRITE:
    case S_HAND_OVER:
    case L_LEAVE:
    case L_ROOM:
    case L_TAKE:
    case L_WRITE:
    case N_WRITE:
    case E_END:
    case H_REST:
        return true;
    default:
        return false;
    }
}

static const Actor *
somebody_writing(void)
{
    for (int i = FIRST; i < ACTORS; i++) {
        if (is_writing(&w->actors[i])) {
            return &w->actors[i];
        }
    }
    return NULL;
}

/* A turn without waiting. */
static void
see_overtaking(void)
{
    w->overtaken += w->first != 0;
    explore_expect(w->overtaken <= MOST_OVERTAKEN, "a thread is overtaken for ever");
}

static bool
try_turn(Actor *actor)
{
    const Writing *writing = &w->writing;
    bool is_free = writing->writer == NULL && !writing->closed && !writing->failed;
    bool is_kept = writing->kept_for != NULL;
    bool has_turn = writing_try(&w->writing, &actor->turn);

    if (has_turn) {
        see_turn(false);
        see_overtaking();
    }
    explore_expect(has_turn ? is_free : !is_free || is_kept,
                   "a thread is told wrongly whether it is its turn");
    return has_turn;
}

/* Without the GIL. */
static bool
try_turn_now(Actor *actor)
{
    bool is_free = !w->closed && !w->errored && !w->forked && somebody_writing() == NULL;
    bool has_turn = writing_try_now(&w->writing, &actor->turn);

    if (has_turn) {
        see_turn(false);
    }
    explore_expect(has_turn == is_free, "an answer is refused though nobody writes, or not");
    return has_turn;
}

static void
see_left_behind(Actor *actor)
{
    explore_expect(!w->closed && !w->errored, "a small message is left after the end");
    actor->small_state = SMALL_LEFT;
    w->order[w->orders++] = (uint8_t)actor_number(actor);
}

static Step
begin_program(Actor *actor)
{
    const Program *program = program_of(actor);

    memset(&actor->thread, 0, sizeof actor->thread);
    actor->rounds = 0;
    switch (program->kind) {
    case P_SEND:
        actor->written = 0;
        if (w->forked) {
            return go(actor, GONE);
        }
        if (try_turn(actor)) {
            explore_expect(!w->closed && !w->errored, "a message is begun after the end");
            return writes(actor);
        }
        begin_to_wait(actor);
        return go(actor, S_SIGNALS);
    case P_FINALIZE:
        if (w->forked) {
            return go(actor, GONE);
        }
        switch (writing_leave_behind(&w->writing, &actor->turn, &actor->small)) {
        case BEHIND_LOST:
            explore_expect(w->closed || w->errored, "a small message is lost");
            actor->small_state = SMALL_LOST;
            return go(actor, GONE);
        case BEHIND_WRITE:
            see_left_behind(actor);
            see_overtaking();
            return leaves(actor, GONE);
        case BEHIND_LEFT:
            see_left_behind(actor);
            return go(actor, GONE);
        }
        return STEP_BLOCKED;
    case P_STATUS:
        if (!try_turn_now(actor)) {
            return go(actor, GONE);
        }
        return go(actor, N_WRITE);
    case P_END:
        begin_to_wait(actor);
        writing_close(&w->writing);
        w->closed = true;
        return go(actor, S_NEXT);
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

static void
fork_away(const Actor *forker)
{
    w->forked = true;
    w->writing.lock.taken = true;
    for (int i = FIRST; i < ACTORS; i++) {
        if (!is_around(forker, &w->actors[i])) {
            Actor *actor = &w->actors[i];
            actor->place = i < FIRST_HELPER && actor->place == IDLE ? IDLE : GONE;
            actor->told = NULL;
            actor->wakeup.released = actor->wakeup.is_there = false;
            actor->small_state = SMALL_LOST;
            memset(&actor->thread, 0, sizeof actor->thread);
        }
    }
    w->partial = w->partial_parts = 0;
}

static Step
help(Actor *actor)
{
    switch (writing_help(&w->writing, &actor->told)) {
    case HELP_REST:
        explore_expect(w->rest != 0, "there is no rest to be written");
        return go(actor, H_REST);
    case HELP_SMALL:
        return leaves(actor, H_LEFT);
    case HELP_END:
        return go(actor, GONE);
    }
    return STEP_BLOCKED;
}

static Step
write_rest(Actor *actor)
{
    const Actor *of = &w->actors[w->rest - 1];

    touch();
    if (w->dead) {
        fail();
    } else if (w->room == 0) {
        return STEP_BLOCKED;
    } else {
        int parts = program_of(of)->parts;
        put_part(w->rest - 1, parts);
        if (++w->rest_written < parts) {
            return STEP_CERTAIN;
        }
    }
    w->rest = w->rest_written = 0;
    return leaves(actor, H_LEFT);
}

static Step
end_writing(Actor *actor)
{
    if (writing_end(&w->writing, &actor->thread, &actor->told) == LEAVE_DONE) {
        explore_expect(w->writing.small == NULL, "small messages are left at the end");
        w->ended = true;
        wait_no_longer(actor);
        return go(actor, GONE);
    }
    actor->rounds = 1;
    return leaves(actor, E_AGAIN);
}

static Step
actor_step(Actor *actor)
{
    switch ((Place)actor->place) {
    case IDLE:
        return begin_program(actor) == STEP_BLOCKED ? STEP_BLOCKED : STEP_OPTIONAL;
    case S_SIGNALS:
        return signals(actor);
    case S_RENAME:
        return rename_turn(actor);
    case S_HANDLER:
        return handler_of(actor)->place == GONE ? go(actor, S_SIGNALS) : STEP_BLOCKED;
    case S_NEXT:
        return await_next(actor);
    case S_SLEEP:
        return await_sleep(actor);
    case S_SLEPT:
        return await_slept(actor);
    case S_TAKE_WAKEUP:
        if (!actor->wakeup.released) {
            return STEP_BLOCKED;
        }
        actor->wakeup.released = false;
        return go(actor, S_NEXT);
    case S_QUIT:
        return await_quit(actor);
    case S_WRITE:
        return send_part(actor);
    case S_HAND_OVER:
        return hand_over(actor);
    case S_START:
        return start_for_rest(actor);
    case S_NO_HELPER:
        writing_no_helper(&w->writing, node_of(actor), &actor->told);
        w->rest = w->rest_written = 0;
        actor->helped = true;
        return go(actor, S_WRITE);
    case L_LEAVE:
        return leave(actor);
    case L_ROOM:
        return look_for_room(actor);
    case L_TAKE:
        return take_small(actor);
    case L_WRITE:
        return write_small(actor);
    case L_START:
        return start_for_small(actor);
    case L_NO_HELPER:
        writing_no_helper(&w->writing, node_of(actor), &actor->told);
        w->alone = actor->after_leave != N_LEFT;
        return go(actor, (Place)actor->after_leave);
    case N_WRITE:
        touch();
        if (w->dead) {
            fail();
        } else if (w->room > 0) {
            put_part(actor_number(actor), 1);
        }
        return leaves(actor, N_LEFT);
    case N_LEFT:
        if (!try_turn(actor)) {
            w->alone = w->closed; /* It is the end's, while that has time. */
            return go(actor, GONE);
        }
        return leaves(actor, GONE);
    case E_END:
        return end_writing(actor);
    case E_AGAIN:
        actor->rounds = 0;
        if ((program_of(actor)->flags & TIMEOUT) && explore_choose(2) == 1) {
            wait_no_longer(actor);
            (void)go(actor, GONE);
            return STEP_OPTIONAL;
        }
        return go(actor, S_NEXT);
    case H_HELP:
        return help(actor);
    case H_REST:
        return write_rest(actor);
    case H_LEFT:
        return go(actor, actor->full ? H_ROOM : H_HELP);
    case H_ROOM:
        touch();
        (void)go(actor, H_HELP);
        return w->room > 0 || w->dead ? STEP_CERTAIN : STEP_ALARM;
    case F_DISOWN:
        fork_away(actor);
        writing_disown(&w->writing);
        return go(actor, GONE);
    default:
        return STEP_BLOCKED;
    }
}

/* The first that waits and could write, + 1. */
static uint8_t
first_that_waits(void)
{
    for (const WritingThread *at = w->writing.waiting; at != NULL; at = at->next) {
        for (int i = FIRST; i < FIRST_HELPER; i++) {
            const Actor *actor = &w->actors[i];
            bool could = program_of(actor)->kind != P_END || w->writing.helps == HELPER_NONE;
            if (at == &actor->thread && could) {
                return (uint8_t)(i + 1);
            }
        }
    }
    return 0;
}

/* Whose turn it is, or the first of those who wait. */
static void
see_told(const Actor *actor)
{
    const Sleeper *told = actor->told;
    uint8_t first = first_that_waits();

    if (told != NULL) {
        explore_expect(told->next_told == NULL, "more than one is told");
        explore_expect(told == &w->writing.writer->sleeper ||
                           (first != 0 && told == &w->actors[first - 1].thread.sleeper),
                       "one is told before the first");
    }
}

/* The other side reads all, or dies. */
static Step
outside_step(void)
{
    if (explore_choose(2) == 0) {
        if (w->dead || w->room == spec->room) {
            return STEP_BLOCKED;
        }
        w->room = (uint8_t)spec->room;
        return STEP_OPTIONAL;
    }
    if (w->dead || !spec->may_die) {
        return STEP_BLOCKED;
    }
    w->dead = true;
    return STEP_OPTIONAL;
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
    if (actor->place == IDLE && program_of(actor)->inside != 0) {
        const Actor *around = &w->actors[program_of(actor)->inside];
        if (around->place != S_HANDLER || around->told != NULL) {
            return STEP_BLOCKED;
        }
    }
    Step made = actor_step(actor);
    see_told(actor);
    return made;
}

/* ---- what holds ---- */

static bool
is_in_a_told_list(const Sleeper *sleeper)
{
    for (int i = 0; i < ACTORS; i++) {
        for (const Sleeper *told = w->actors[i].told; told != NULL; told = told->next_told) {
            if (told == sleeper) {
                return true;
            }
        }
    }
    return false;
}

static void
check(void)
{
    int writers = 0;

    explore_expect(!w->writing.lock.taken, "a lock is kept");
    for (int i = FIRST; i < ACTORS; i++) {
        Actor *actor = &w->actors[i];
        bool waits = false;
        writers += is_writing(actor);
        for (const WritingThread *at = w->writing.waiting; at != NULL; at = at->next) {
            waits = waits || at == &actor->thread;
        }
        if (actor->place == GONE && actor->told == NULL) {
            explore_expect(!waits, "a thread still waits that is gone");
            explore_expect(w->writing.writer != &actor->thread && w->writing.writer != &actor->turn,
                           "a thread is the writer that is gone");
        }
        if (!waits) {
            actor->thread.next = &actor->thread; /* Before it waits, it may be anything. */
        }
        if (!is_in_a_told_list(&actor->thread.sleeper)) {
            actor->thread.sleeper.next_told = NULL;
        }
        if (actor->small_state != SMALL_LEFT) {
            actor->small.next = &actor->small;
        }
    }
    explore_expect(writers <= 1, "two threads write");
    if (first_that_waits() != w->first) {
        w->first = first_that_waits();
        w->overtaken = 0;
    }
    /* More makes no difference: it is one of these already, in the model. */
    w->writing.overtaken = w->writing.overtaken > 2 ? 2 : w->writing.overtaken;
    if (w->writing.small == NULL) {
        w->writing.last_small = NULL;
    }
}

static bool
is_asleep(const Actor *actor)
{
    return actor->place == S_SLEEP;
}

static bool
waits_for_room(const Actor *actor)
{
    return (actor->place == S_WRITE || actor->place == H_REST) && w->room == 0 && !w->dead;
}

/* Everybody is gone, or waits for what only the outside brings. */
static bool
is_quiet(bool helper_may_wait)
{
    bool blocked = false, helps = false;

    for (int i = FIRST; i < ACTORS; i++) {
        const Actor *actor = &w->actors[i];
        if (actor->told != NULL) {
            return false;
        }
        if (waits_for_room(actor)) {
            blocked = true;
        } else if (actor->place == H_ROOM && w->room == 0 && !w->dead) {
            helps = true;
        } else if (!is_asleep(actor) && actor->place != GONE && actor->place != IDLE &&
                   actor->place != S_HANDLER) {
            return false;
        }
    }
    for (int i = FIRST; i < ACTORS; i++) {
        const Actor *actor = &w->actors[i];
        if (is_asleep(actor) && !blocked &&
            !(helps && (program_of(actor)->kind == P_END || w->rest != 0))) {
            /* In a handler that waits, the one who is interrupted waits, too. */
            return false;
        }
        if (actor->place == S_HANDLER && !blocked && !helps) {
            const Actor *handler = handler_of(actor);
            if (handler->place == GONE) {
                return false;
            }
        }
    }
    if (w->writing.small != NULL && !blocked && !helps && !w->alone && !w->forked) {
        return w->errored;
    }
    return helper_may_wait || !helps;
}

static bool
is_settled(void)
{
    return is_quiet(true);
}

static bool
is_end(void)
{
    for (int i = FIRST; i < ACTORS; i++) {
        const Actor *actor = &w->actors[i];
        bool never_began = actor->place == IDLE && program_of(actor)->inside != 0;
        if (actor->told != NULL || (actor->place != GONE && !never_began)) {
            return false;
        }
        bool left = actor->small_state == SMALL_LEFT || actor->small_state == SMALL_TAKEN;
        if (left && !w->alone && !w->errored) {
            return false;
        }
    }
    return w->partial == 0;
}

static const char *
describe(int number)
{
    static char text[200];
    const Actor *actor = &w->actors[number];
    static const char *const kinds[] = {"", "send", "finalizer", "status", "end", "fork"};

    if (number == OUTSIDE) {
        return "the other side reads, or dies";
    }
    (void)snprintf(text, sizeof text, "%s %s%s", kinds[program_of(actor)->kind],
                   actor->told != NULL ? "wakes one of those told, and then: " : "",
                   place_names[actor->place]);
    return text;
}

static void
begin(const void *given)
{
    spec = given;
    memset(&memory, 0, sizeof memory);
    w->writing.lock.taken = true; /* until it is made */
    writing_init(&w->writing);
    w->room = (uint8_t)spec->room;
    for (int i = FIRST; i < ACTORS; i++) {
        bool exists = i < FIRST_HELPER && spec->programs[i - FIRST].kind != P_NOTHING;
        w->actors[i].place = exists ? IDLE : GONE;
    }
}

static const Model model = {
    .world = &memory,
    .size = sizeof memory,
    .actors = ACTORS,
    .begin = begin,
    .step = step,
    .check = check,
    .is_settled = is_settled,
    .is_served = is_settled,
    .is_end = is_end,
    .describe = describe,
};

static const Spec specs[] = {
#include "writing_worlds.h"
};

void
explore_writing(Wanted is_wanted)
{
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        if (is_wanted(specs[i].name, specs[i].is_short)) {
            explore(specs[i].name, &model, &specs[i]);
        }
    }
}
