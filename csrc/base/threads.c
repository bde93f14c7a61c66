/* The pool.
 *
 * A region is a body that runs once on each of n threads: the caller is thread 0, the workers have
 * the numbers after it. dd_parallel() is a region whose body takes units from a shared counter.
 *
 * A region starts when the ticket changes: its low 9 bits are the number of threads that take
 * part, the rest is a sequence number. So a worker that takes no part learns it from the same load
 * and never reads the region's fields, which the next region may be writing by then. A worker that
 * takes part may read them until it counts itself off in `pending`.
 *
 * After a fork the child has no workers: the handler marks the pool as empty, and the next region
 * starts new ones. A fork from inside a region is not supported (its other threads are gone). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

#include "base/cpus.h"
#include "base/wait.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#define TICKET_BITS 9
#define TICKET_MASK ((1u << TICKET_BITS) - 1u)

static struct {
    dd_word lock;                     /* 1 while a region, or a change of the pool, is under way */
    dd_word ticket;                   /* the region that workers look out for */
    dd_word pending;                  /* workers that have not left the region */
    dd_word phase;                    /* barriers passed; waiters look out for the next one */
    _Alignas(64) atomic_uint arrived; /* threads of the team at the present barrier */
    /* Written by the holder of the lock before the ticket: */
    dd_team_body body; /* NULL: the workers end */
    void *context;
    int n;          /* threads of the region */
    atomic_int cpu; /* where the thread runs that let the others go on last; -1: unknown */
    bool spin;      /* false where threads outnumber CPUs: a spin then only delays the others */
    int workers;    /* threads started */
    unsigned first_ticket; /* the ticket when they were started */
    atomic_int wanted;     /* what dd_threads() says; 0: not asked yet */
    pthread_t threads[DD_MAX_THREADS];
} pool;

/* The region that this thread is in. */
static _Thread_local struct {
    bool inside;
    int thread; /* a worker's number; 0 in every other thread */
    int team;   /* threads that meet at dd_barrier(); below 2 the barrier does nothing */
} self;

/* ---- flush-to-zero ------------------------------------------------------------------------- */

#if defined(__x86_64__)
#define FLUSH_BITS 0x8040u /* FTZ and DAZ */
static unsigned flush_begin(void) {
    unsigned state = _mm_getcsr();
    _mm_setcsr(state | FLUSH_BITS);
    return state;
}
static void flush_end(unsigned state) {
    _mm_setcsr((_mm_getcsr() & ~FLUSH_BITS) | (state & FLUSH_BITS));
}
#elif defined(__aarch64__)
#define FLUSH_BITS (1ull << 24) /* FZ */
static unsigned flush_begin(void) {
    uint64_t state;
    __asm__ volatile("mrs %0, fpcr" : "=r"(state));
    __asm__ volatile("msr fpcr, %0" ::"r"(state | FLUSH_BITS));
    return (state & FLUSH_BITS) != 0;
}
static void flush_end(unsigned was_set) {
    uint64_t state;
    __asm__ volatile("mrs %0, fpcr" : "=r"(state));
    if (!was_set)
        __asm__ volatile("msr fpcr, %0" ::"r"(state & ~FLUSH_BITS));
}
#else
static unsigned flush_begin(void) {
    return 0;
}
static void flush_end(unsigned state) {
    (void)state;
}
#endif

/* ---- a CPU of its own ----------------------------------------------------------------------

 * The kernel likes to wake a thread on the CPU of the one that wakes it, which is about to work
 * itself: on a busy machine a team would share one CPU and lose more than it gains. A worker that
 * finds itself there asks for another CPU once and then is free again. */
#if defined(__linux__)
static void cpu_note(void) {
    atomic_store_explicit(&pool.cpu, sched_getcpu(), memory_order_relaxed);
}

static void cpu_keep_apart(void) {
    int waker = atomic_load_explicit(&pool.cpu, memory_order_relaxed);
    cpu_set_t allowed, others;
    if (!pool.spin || waker < 0 || waker >= CPU_SETSIZE || sched_getcpu() != waker ||
        sched_getaffinity(0, sizeof allowed, &allowed) != 0 || !CPU_ISSET(waker, &allowed) ||
        CPU_COUNT(&allowed) < 2)
        return;
    others = allowed;
    CPU_CLR(waker, &others);
    if (sched_setaffinity(0, sizeof others, &others) == 0)
        (void)sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
static void cpu_note(void) {}
static void cpu_keep_apart(void) {}
#endif

/* ---- workers ------------------------------------------------------------------------------- */

static void *worker_main(void *argument) {
    int thread = (int)(intptr_t)argument;
    self.inside = true; /* a region started from a unit stays in its thread */
    self.thread = thread;
    (void)flush_begin();
    unsigned seen = pool.first_ticket;
    for (;;) {
        dd_wait_while(&pool.ticket, seen, pool.spin);
        seen = atomic_load_explicit(&pool.ticket.value, memory_order_acquire);
        if (thread >= (int)(seen & TICKET_MASK))
            continue;
        dd_team_body body = pool.body;
        if (body) {
            cpu_keep_apart();
            self.team = pool.n;
            body(pool.context, thread, pool.n);
        }
        if (atomic_fetch_sub(&pool.pending.value, 1) == 1)
            dd_wake_all(&pool.pending);
        if (!body)
            return NULL;
    }
}

static void pool_lock(void) {
    while (atomic_exchange(&pool.lock.value, 1u) != 0)
        dd_wait_while(&pool.lock, 1u, false);
}

static void pool_unlock(void) {
    atomic_store(&pool.lock.value, 0u);
    dd_wake_all(&pool.lock);
}

/* Shows the region to the workers. The lock is held. */
static void region_post(dd_team_body body, void *context, int n) {
    pool.body = body;
    pool.context = context;
    pool.n = n;
    atomic_store_explicit(&pool.arrived, 0u, memory_order_relaxed);
    atomic_store(&pool.pending.value, (unsigned)n - 1u);
    cpu_note();
    unsigned ticket = atomic_load_explicit(&pool.ticket.value, memory_order_relaxed);
    unsigned next = (ticket | TICKET_MASK) + 1u; /* the sequence number wraps without harm */
    atomic_store(&pool.ticket.value, next | (unsigned)n);
    dd_wake_all(&pool.ticket);
}

/* Waits until no worker is in the region any more. */
static void region_wait(void) {
    unsigned left;
    while ((left = atomic_load_explicit(&pool.pending.value, memory_order_acquire)) != 0)
        dd_wait_while(&pool.pending, left, pool.spin);
}

/* The child of a fork: only the forking thread lives on. */
static void pool_after_fork(void) {
    dd_word *words[] = {&pool.lock, &pool.ticket, &pool.pending, &pool.phase};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        atomic_store_explicit(&words[i]->asleep, 0u, memory_order_relaxed);
    atomic_store_explicit(&pool.lock.value, 0u, memory_order_relaxed);
    atomic_store_explicit(&pool.pending.value, 0u, memory_order_relaxed);
    pool.workers = 0;
    dd_wait_after_fork();
}

static void pool_watch_fork(void) {
    (void)pthread_atfork(NULL, NULL, pool_after_fork);
}

static void pool_stop(void) {
    if (!pool.workers)
        return;
    region_post(NULL, NULL, pool.workers + 1);
    for (int i = 0; i < pool.workers; i++)
        pthread_join(pool.threads[i], NULL);
    pool.workers = 0;
}

/* Brings the pool to n - 1 workers, or as near as the system allows. The lock is held. */
static void pool_start(int n) {
    static pthread_once_t watched = PTHREAD_ONCE_INIT;
    if (pool.workers == n - 1)
        return;
    pool_stop();
    (void)pthread_once(&watched, pool_watch_fork);
    pool.spin = n <= dd_cpus_allowed();
    pool.first_ticket = atomic_load_explicit(&pool.ticket.value, memory_order_relaxed);
    /* Workers take no signals: those belong to the threads of the application. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.workers < n - 1) {
        void *argument = (void *)(intptr_t)(pool.workers + 1);
        if (pthread_create(&pool.threads[pool.workers], NULL, worker_main, argument) != 0)
            break; /* a limit of processes: the region runs on fewer threads */
        pool.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- regions ------------------------------------------------------------------------------- */

/* Runs body in the calling thread as a region of one. */
static void region_alone(dd_team_body body, void *context, int thread) {
    bool inside = self.inside;
    int outer_team = self.team;
    unsigned state = flush_begin();
    self.inside = true;
    self.team = 1;
    body(context, thread, 1);
    self.inside = inside;
    self.team = outer_team;
    flush_end(state);
}

/* Runs body on at most `most` threads. The caller is in no region. */
static void region_run(dd_team_body body, void *context, int most) {
    if (most < 2) {
        region_alone(body, context, 0);
        return;
    }
    pool_lock();
    /* Read under the lock: dd_threads_set() holds it too. */
    int threads = dd_threads();
    pool_start(threads);
    int n = pool.workers + 1 < most ? pool.workers + 1 : most;
    if (n < 2) {
        pool_unlock();
        region_alone(body, context, 0);
        return;
    }
    unsigned state = flush_begin();
    region_post(body, context, n);
    self.inside = true;
    self.team = n;
    body(context, 0, n);
    region_wait();
    self.inside = false;
    self.team = 0;
    flush_end(state);
    pool_unlock();
}

typedef struct loop {
    _Alignas(64) atomic_llong next; /* the first unit that nobody has taken */
    _Alignas(64) int64_t n;
    dd_work work;
    void *context;
} loop;

static void loop_body(void *context, int thread, int n_threads) {
    (void)n_threads;
    loop *l = context;
    for (;;) {
        int64_t unit = atomic_fetch_add_explicit(&l->next, 1, memory_order_relaxed);
        if (unit >= l->n)
            return;
        l->work(l->context, unit, thread);
    }
}

void dd_parallel(int64_t n, dd_work work, void *context) {
    if (n < 1)
        return;
    loop l = {.n = n, .work = work, .context = context};
    if (self.inside) {
        /* Under the outer thread's number: scratch by thread then serves both levels. */
        region_alone(loop_body, &l, self.thread);
        return;
    }
    int threads = dd_threads();
    region_run(loop_body, &l, n < threads ? (int)n : threads);
}

void dd_team(dd_team_body body, void *context) {
    if (self.inside)
        region_alone(body, context, 0);
    else
        region_run(body, context, dd_threads());
}

void dd_barrier(void) {
    if (self.team < 2)
        return;
    /* The phase cannot change before this thread arrives, so it is read first. */
    unsigned phase = atomic_load_explicit(&pool.phase.value, memory_order_relaxed);
    if (atomic_fetch_add(&pool.arrived, 1u) + 1u == (unsigned)self.team) {
        atomic_store_explicit(&pool.arrived, 0u, memory_order_relaxed);
        cpu_note();
        atomic_store(&pool.phase.value, phase + 1u);
        dd_wake_all(&pool.phase);
        return;
    }
    dd_wait_while(&pool.phase, phase, pool.spin);
    if (self.thread > 0) /* the application's own thread stays where it is */
        cpu_keep_apart();
}

/* ---- the number of threads ----------------------------------------------------------------- */

/* DD_NUM_THREADS where it is a number that makes sense, else the CPUs that are ours. */
static int default_threads(void) {
    const char *text = getenv("DD_NUM_THREADS");
    if (text && *text) {
        char *end;
        long n = strtol(text, &end, 10);
        if (*end == '\0' && n >= 1)
            return n < DD_MAX_THREADS ? (int)n : DD_MAX_THREADS;
    }
    int cpus = dd_cpus_allowed();
    return cpus < DD_MAX_THREADS ? cpus : DD_MAX_THREADS;
}

int dd_threads(void) {
    int n = atomic_load_explicit(&pool.wanted, memory_order_relaxed);
    if (n)
        return n;
    int none = 0;
    n = default_threads();
    return atomic_compare_exchange_strong(&pool.wanted, &none, n) ? n : none;
}

dd_status dd_threads_set(int n) {
    if (n < 1 || n > DD_MAX_THREADS)
        return dd_fail(DD_EVALUE, "threads: %d came, 1 to %d is needed", n, DD_MAX_THREADS);
    if (self.inside)
        return dd_fail(DD_ESTATE, "threads: the number cannot change inside a parallel region");
    pool_lock();
    if (pool.workers != n - 1)
        pool_stop(); /* the next region starts as many as it needs */
    atomic_store(&pool.wanted, n);
    pool_unlock();
    return DD_OK;
}
