/* Spin, then sleep on a futex. Elsewhere than on Linux one condition variable stands in for all
 * words: it wakes too many threads, which costs time and breaks nothing, as every waiter looks at
 * its word again. */
#include "base/wait.h"

#include <stddef.h>
#include <time.h>

#include "base/threads.h"

#if defined(__linux__) && !defined(DD_NO_FUTEX)
#define DD_FUTEX 1
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <pthread.h>
#endif

/* Longer than what one thread ends before another at a barrier: a thread that sleeps there gives
 * its CPU back, a virtual one to its host even, and comes back so late that the others sleep, too.
 * With 20 microseconds a run of 2.2 ms took 4.3. */
#define SPIN_SECONDS 100e-6
#define LOOK_SECONDS 0.05

static inline void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

double dd_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#ifdef DD_FUTEX
/* Sleeps while the value is `value`; may wake without reason, and after LOOK_SECONDS if `timed`. */
static void sleep_on(dd_word *word, unsigned value, bool timed) {
    struct timespec limit = {.tv_sec = 0, .tv_nsec = (long)(LOOK_SECONDS * 1e9)};
    syscall(SYS_futex, &word->value, FUTEX_WAIT_PRIVATE, value, timed ? &limit : NULL, NULL, 0);
}

void dd_wake_all(dd_word *word) {
    if (atomic_load(&word->asleep))
        syscall(SYS_futex, &word->value, FUTEX_WAKE_PRIVATE, 0x7FFFFFFF, NULL, NULL, 0);
}

void dd_wait_after_fork(void) {} /* the kernel's queues hold nobody of this process */
#else
static pthread_mutex_t sleep_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t sleep_cond = PTHREAD_COND_INITIALIZER;

static void sleep_on(dd_word *word, unsigned value, bool timed) {
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_nsec += (long)(LOOK_SECONDS * 1e9);
    if (limit.tv_nsec >= 1000000000) {
        limit.tv_sec++;
        limit.tv_nsec -= 1000000000;
    }
    /* The waker takes the mutex too, so it cannot slip between the look and the sleep. */
    pthread_mutex_lock(&sleep_mutex);
    if (atomic_load(&word->value) == value) {
        if (timed)
            pthread_cond_timedwait(&sleep_cond, &sleep_mutex, &limit);
        else
            pthread_cond_wait(&sleep_cond, &sleep_mutex);
    }
    pthread_mutex_unlock(&sleep_mutex);
}

void dd_wake_all(dd_word *word) {
    if (atomic_load(&word->asleep)) {
        pthread_mutex_lock(&sleep_mutex);
        pthread_cond_broadcast(&sleep_cond);
        pthread_mutex_unlock(&sleep_mutex);
    }
}

void dd_wait_after_fork(void) {
    /* A thread that is gone may have held the mutex. */
    pthread_mutex_init(&sleep_mutex, NULL);
    pthread_cond_init(&sleep_cond, NULL);
}
#endif

void dd_wait_while(dd_word *word, unsigned value, bool spin) {
    if (spin) {
        double end = 0;
        do {
            /* The clock is read once in 16 pauses (1 to 2 microseconds). */
            for (int i = 0; i < 16; i++) {
                if (atomic_load_explicit(&word->value, memory_order_acquire) != value)
                    return;
                cpu_relax();
            }
            if (end == 0)
                end = dd_seconds() + SPIN_SECONDS;
        } while (dd_seconds() < end);
    }
    while (atomic_load_explicit(&word->value, memory_order_acquire) == value) {
        /* Sequential order on both sides: either the waker sees us asleep, or we (or the kernel,
         * which compares again) see its new value. */
        atomic_fetch_add(&word->asleep, 1);
        if (atomic_load(&word->value) == value)
            sleep_on(word, value, dd_cancel_looks());
        atomic_fetch_sub(&word->asleep, 1);
        (void)dd_cancelled();
    }
}
