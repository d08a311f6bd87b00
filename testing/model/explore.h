/* The explorer: all states of a small world, by breadth, so that the trace to a violation is a
   shortest one.

   A world is a struct of fixed address and size in which some actors (threads, and what comes from
   outside) make steps. A step is one transition of a machine and what its caller does at once with
   its result; where more than one thing may happen in it, it asks explore_choose(). Between two
   steps, anybody else may make his. */
#ifndef EXECNET_EXPLORE_H
#define EXECNET_EXPLORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    STEP_BLOCKED,  /* the actor can't move, or not in that way; nothing has changed */
    STEP_CERTAIN,  /* it moves at some time, by itself */
    STEP_ALARM,    /* it moves when an alarm ends its sleep */
    STEP_OPTIONAL, /* it may be that this never happens */
} Step;

typedef struct {
    void *world;
    size_t size; /* a multiple of 8 */
    int actors;
    void (*begin)(const void *spec);
    Step (*step)(int actor);
    /* After each step: look at what must hold, and make states equal that differ in nothing. */
    void (*check)(void);
    /* Nothing is left to be done but what is optional: from everywhere, such a state must be
       reached by certain steps and alarms. */
    bool (*is_settled)(void);
    /* Nobody sleeps who has what it waits for: must be reached without alarms. */
    bool (*is_served)(void);
    /* The connection has ended, and all actors with it: must be reached from everywhere. */
    bool (*is_end)(void);
    /* What the actor is about to do, for the trace. */
    const char *(*describe)(int actor);
} Model;

/* One of `count` things that may happen. */
int explore_choose(int count);

/* Tell of a violation, with the trace to it, and end. */
_Noreturn void explore_violation(const char *what);

static inline void
explore_expect(bool holds, const char *what)
{
    if (!holds) {
        explore_violation(what);
    }
}

/* All states of one world. */
void explore(const char *name, const Model *model, const void *spec);

/* The worlds of a machine: all, or those of the short form. */
typedef bool (*Wanted)(const char *name, bool is_short);
void explore_reading(Wanted is_wanted);
void explore_writing(Wanted is_wanted);

#endif
