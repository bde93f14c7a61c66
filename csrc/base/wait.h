/* Waiting for a word in memory to change: a short spin, then sleep. The pool's only primitive.
 *
 * Pattern of use: the waker stores a new value with sequential consistency and calls dd_wake_all();
 * the system call is made only when somebody sleeps. */
#ifndef DD_BASE_WAIT_H
#define DD_BASE_WAIT_H

#include <stdatomic.h>
#include <stdbool.h>

typedef struct dd_word {
    _Alignas(64) atomic_uint value; /* own cache line: spinning threads read it all the time */
    atomic_uint asleep;             /* threads in dd_wait_while() that no longer spin */
} dd_word;

/* Returns once the value is not `value` (with acquire order). Spins for 100 microseconds at most
 * when `spin`. A thread with a dd_cancel_look() wakes each 50 ms and looks. */
void dd_wait_while(dd_word *word, unsigned value, bool spin);

/* Wakes all threads that sleep on the word; to be called after its value changed. */
void dd_wake_all(dd_word *word);

/* To be called in the child of a fork, before it waits. */
void dd_wait_after_fork(void);

/* Whether this thread has set dd_cancel_look(), so that it must not sleep without end. */
bool dd_cancel_looks(void);

#endif
