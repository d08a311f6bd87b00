/* The explorer, see explore.h. States are told apart by 64 bits of hash; the queue of the states
   that are to be looked at holds them whole. */
#define _DEFAULT_SOURCE
#include "explore.h"

#include "connection/sleeper.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

enum {
    MOST_CHOICES = 4, /* in one step */
    MOST_STATES = 40000000,
};

/* ---- memory ---- */

static void *
resized(void *memory, size_t size)
{
    memory = realloc(memory, size);
    if (memory == NULL) {
        (void)fprintf(stderr, "no memory\n");
        exit(3);
    }
    return memory;
}

/* ---- what is known of one world ---- */

typedef struct {
    uint32_t from, to;
    uint8_t step;
} Edge;

typedef struct {
    uint32_t parent;
    uint8_t actor;
    uint8_t choices[MOST_CHOICES];
    bool is_settled, is_served, is_end;
} State;

static struct {
    const char *name;
    const Model *model;
    const void *spec;
    State *states;
    size_t count, capacity;
    uint64_t *hashes; /* of the states, for their table */
    uint32_t *table;  /* number of a state + 1, by hash */
    size_t slots;
    Edge *edges;
    size_t edge_count, edge_capacity;
    unsigned char *queue; /* the states from `first` to `count`, whole, in a ring */
    size_t queue_slots;
    /* The step that is being made. */
    uint32_t from;
    int actor;
    uint8_t choices[MOST_CHOICES], limits[MOST_CHOICES];
    int chosen;
    volatile unsigned long steps, seen_steps;
    bool tells; /* a trace is being printed */
} now;

static size_t total_worlds, total_states, total_edges;
static double total_seconds;

/* ---- traces ---- */

static void
make_step(int actor, const uint8_t *choices)
{
    now.actor = actor;
    now.chosen = 0;
    now.steps++;
    memcpy(now.choices, choices, sizeof now.choices);
}

static void
print_step(size_t number, int actor)
{
    (void)printf("  %3zu. %d: %s\n", number, actor, now.model->describe(actor));
}

static void
print_trace(uint32_t last)
{
    size_t length = 0;
    uint32_t *path = NULL;

    for (uint32_t at = last; at != 0; at = now.states[at].parent) {
        path = resized(path, (length + 1) * sizeof *path);
        path[length++] = at;
    }
    now.model->begin(now.spec);
    now.model->check();
    for (size_t i = length; i > 0; i--) {
        const State *state = &now.states[path[i - 1]];
        make_step(state->actor, state->choices);
        print_step(length - i + 1, state->actor);
        (void)now.model->step(state->actor);
        now.model->check();
    }
    free(path);
}

_Noreturn void
explore_violation(const char *what)
{
    (void)printf("%s: VIOLATION: %s\n", now.name, what);
    if (!now.tells) {
        uint8_t choices[MOST_CHOICES];
        int actor = now.actor;
        now.tells = true;
        memcpy(choices, now.choices, sizeof choices);
        print_trace(now.from);
        if (actor >= 0) {
            print_step(0, actor);
            (void)printf("       with choices %d %d %d\n", choices[0], choices[1], choices[2]);
        }
    }
    (void)fflush(stdout);
    _Exit(1);
}

/* ---- locks ---- */

void
mutex_init(Mutex *mutex)
{
    mutex->taken = false;
}

void
mutex_lock(Mutex *mutex)
{
    explore_expect(!mutex->taken, "a lock is taken twice");
    mutex->taken = true;
}

void
mutex_unlock(Mutex *mutex)
{
    explore_expect(mutex->taken, "a lock is let go that is not held");
    mutex->taken = false;
}

/* ---- states ---- */

int
explore_choose(int count)
{
    if (now.chosen == MOST_CHOICES) {
        explore_violation("the model chooses too often in one step");
    }
    now.limits[now.chosen] = (uint8_t)count;
    return now.choices[now.chosen++];
}

static bool
next_choices(void)
{
    while (now.chosen > 0) {
        now.chosen--;
        if (now.choices[now.chosen] + 1 < now.limits[now.chosen]) {
            now.choices[now.chosen]++;
            return true;
        }
        now.choices[now.chosen] = 0;
    }
    return false;
}

static uint64_t
hash_of_world(void)
{
    const uint64_t *words = now.model->world;
    uint64_t hash = 0x9e3779b97f4a7c15u;

    for (size_t i = 0; i < now.model->size / sizeof *words; i++) {
        hash = (hash ^ words[i]) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
    }
    hash *= 0xc4ceb9fe1a85ec53u;
    return hash ^ hash >> 29;
}

static uint32_t *
slot_of(uint64_t hash)
{
    size_t at = hash & (now.slots - 1);

    while (now.table[at] != 0 && now.hashes[now.table[at] - 1] != hash) {
        at = (at + 1) & (now.slots - 1);
    }
    return &now.table[at];
}

static void
enlarge_table(void)
{
    size_t slots = now.slots == 0 ? 1024 : 2 * now.slots;

    free(now.table);
    now.table = calloc(slots, sizeof *now.table);
    if (now.table == NULL) {
        exit(3);
    }
    now.slots = slots;
    for (size_t i = 0; i < now.count; i++) {
        *slot_of(now.hashes[i]) = (uint32_t)i + 1;
    }
}

static void
enlarge_queue(uint32_t first)
{
    size_t size = now.model->size, slots = now.queue_slots == 0 ? 256 : 2 * now.queue_slots;
    unsigned char *queue = resized(NULL, slots * size);

    for (size_t i = first; i < now.count; i++) {
        memcpy(queue + (i & (slots - 1)) * size, now.queue + (i & (now.queue_slots - 1)) * size,
               size);
    }
    free(now.queue);
    now.queue = queue;
    now.queue_slots = slots;
}

/* The number of the state that the world is in. */
static uint32_t
number_of_world(uint32_t first)
{
    uint64_t hash = hash_of_world();

    if (2 * now.count >= now.slots) {
        enlarge_table();
    }
    uint32_t *slot = slot_of(hash);
    if (*slot != 0) {
        return *slot - 1;
    }
    if (now.count == MOST_STATES) {
        explore_violation("there are too many states");
    }
    if (now.count == now.capacity) {
        now.capacity = now.capacity == 0 ? 1024 : 2 * now.capacity;
        now.states = resized(now.states, now.capacity * sizeof *now.states);
        now.hashes = resized(now.hashes, now.capacity * sizeof *now.hashes);
    }
    if (now.count - first >= now.queue_slots) {
        enlarge_queue(first);
    }
    uint32_t number = (uint32_t)now.count++;
    State *state = &now.states[number];
    *slot = number + 1;
    now.hashes[number] = hash;
    state->parent = now.from;
    state->actor = (uint8_t)now.actor;
    memcpy(state->choices, now.choices, sizeof state->choices);
    state->is_settled = now.model->is_settled();
    state->is_served = now.model->is_served();
    state->is_end = now.model->is_end();
    memcpy(now.queue + (number & (now.queue_slots - 1)) * now.model->size, now.model->world,
           now.model->size);
    return number;
}

static void
add_edge(uint32_t to, Step step)
{
    if (now.edge_count == now.edge_capacity) {
        now.edge_capacity = now.edge_capacity == 0 ? 4096 : 2 * now.edge_capacity;
        now.edges = resized(now.edges, now.edge_capacity * sizeof *now.edges);
    }
    now.edges[now.edge_count++] = (Edge){now.from, to, (uint8_t)step};
}

static void
look_at_state(uint32_t number)
{
    static const uint8_t none[MOST_CHOICES];
    unsigned char *whole;

    now.from = number;
    for (int actor = 0; actor < now.model->actors; actor++) {
        make_step(actor, none);
        do {
            now.chosen = 0;
            now.steps++;
            whole = now.queue + (number & (now.queue_slots - 1)) * now.model->size;
            memcpy(now.model->world, whole, now.model->size);
            Step step = now.model->step(actor);
            if (step != STEP_BLOCKED) {
                now.model->check();
                add_edge(number_of_world(number), step);
            }
        } while (next_choices());
    }
}

/* ---- what must be reached ---- */

typedef enum { SETTLED, SERVED, END } Goal;

static bool
is_goal(const State *state, Goal goal)
{
    return goal == SETTLED ? state->is_settled : goal == SERVED ? state->is_served : state->is_end;
}

static bool
counts(const Edge *edge, Goal goal)
{
    return edge->step == STEP_CERTAIN || goal == END ||
           (goal == SETTLED && edge->step == STEP_ALARM);
}

/* From every state one of the goal must be reached. */
static void
expect_goal(Goal goal, const char *what)
{
    uint32_t *starts = calloc(now.count + 2, sizeof *starts);
    uint32_t *froms = resized(NULL, (now.edge_count + 1) * sizeof *froms);
    uint32_t *todo = resized(NULL, now.count * sizeof *todo);
    bool *reaches = calloc(now.count, sizeof *reaches);
    size_t count = 0;

    if (starts == NULL || reaches == NULL) {
        exit(3);
    }
    for (size_t i = 0; i < now.edge_count; i++) {
        starts[now.edges[i].to + 2] += counts(&now.edges[i], goal);
    }
    for (size_t i = 2; i < now.count + 2; i++) {
        starts[i] += starts[i - 1];
    }
    for (size_t i = 0; i < now.edge_count; i++) {
        if (counts(&now.edges[i], goal)) {
            froms[starts[now.edges[i].to + 1]++] = now.edges[i].from;
        }
    }
    for (size_t i = 0; i < now.count; i++) {
        if (is_goal(&now.states[i], goal)) {
            reaches[i] = true;
            todo[count++] = (uint32_t)i;
        }
    }
    while (count > 0) {
        uint32_t to = todo[--count];
        for (uint32_t i = starts[to]; i < starts[to + 1]; i++) {
            if (!reaches[froms[i]]) {
                reaches[froms[i]] = true;
                todo[count++] = froms[i];
            }
        }
    }
    for (size_t i = 0; i < now.count; i++) {
        if (!reaches[i]) {
            now.from = (uint32_t)i;
            now.actor = -1;
            explore_violation(what);
        }
    }
    free(starts);
    free(froms);
    free(todo);
    free(reaches);
}

void
explore(const char *name, const Model *model, const void *spec)
{
    clock_t start = clock();

    memset(&now, 0, sizeof now);
    now.name = name;
    now.model = model;
    now.spec = spec;
    model->begin(spec);
    now.actor = -1;
    model->check();
    (void)number_of_world(0);
    for (uint32_t number = 0; number < now.count; number++) {
        look_at_state(number);
    }
    now.actor = -1;
    expect_goal(SERVED, "somebody sleeps who has what it waits for");
    expect_goal(SETTLED, "nobody does what is to be done");
    expect_goal(END, "somebody does not end when the connection does");
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    (void)printf("%-60s %9zu states %10zu transitions %7.2f s\n", name, now.count, now.edge_count,
                 seconds);
    (void)fflush(stdout);
    total_worlds++;
    total_states += now.count;
    total_edges += now.edge_count;
    total_seconds += seconds;
    free(now.states);
    free(now.hashes);
    free(now.table);
    free(now.edges);
    free(now.queue);
}

/* ---- steps that do not end ---- */

enum { STEP_SECONDS = 1 };

static void
on_alarm(int signal)
{
    (void)signal;
    if (now.steps == now.seen_steps && now.actor >= 0) {
        explore_violation("a transition does not end");
    }
    now.seen_steps = now.steps;
}

static void
watch_steps(void)
{
    struct itimerval every = {{STEP_SECONDS, 0}, {STEP_SECONDS, 0}};

    (void)signal(SIGVTALRM, on_alarm);
    (void)setitimer(ITIMER_VIRTUAL, &every, NULL);
}

/* ---- which worlds ---- */

static bool short_form;
static const char *part;

static bool
is_wanted(const char *name, bool is_short)
{
    return (is_short || !short_form) && (part == NULL || strstr(name, part) != NULL);
}

int
main(int count, char **arguments)
{
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--short") == 0) {
            short_form = true;
        } else {
            part = arguments[i];
        }
    }
    watch_steps();
    explore_reading(is_wanted);
    explore_writing(is_wanted);
    (void)printf("%3zu worlds, no violation %45zu states %10zu transitions %7.2f s\n", total_worlds,
                 total_states, total_edges, total_seconds);
    return 0;
}
