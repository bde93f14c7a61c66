/* The pool: units, teams, barriers, nesting, several callers, fork, cancel, quota. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <float.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cpus.h"
#include "base/threads.h"

#include "check.h"

#if defined(__SANITIZE_THREAD__)
#define DD_HAS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define DD_HAS_TSAN 1
#endif
#endif

enum { UNITS = 1000, ROUNDS = 300 };

typedef struct counts {
    atomic_int done[UNITS];
    atomic_int busy[DD_MAX_THREADS]; /* units under way under a thread's number */
    atomic_int wrong;
    int threads;
} counts;

static void count_unit(void *context, int64_t unit, int thread) {
    counts *c = context;
    if (thread < 0 || thread >= c->threads || atomic_fetch_add(&c->busy[thread], 1) != 0)
        atomic_fetch_add(&c->wrong, 1);
    atomic_fetch_add(&c->done[unit], 1);
    atomic_fetch_sub(&c->busy[thread], 1);
}

/* Every unit once, whatever the number of units and threads. */
static void check_units(int threads) {
    static counts c;
    CHECK(dd_threads_set(threads) == DD_OK && dd_threads() == threads, "%d", threads);
    const int sizes[] = {0, 1, 2, 3, 7, 64, UNITS, -5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        memset(&c, 0, sizeof c);
        c.threads = threads;
        dd_parallel(sizes[i], count_unit, &c);
        int wrong = atomic_load(&c.wrong);
        for (int u = 0; u < UNITS; u++)
            wrong += atomic_load(&c.done[u]) != (u < sizes[i]);
        CHECK(wrong == 0, "%d threads, %d units: %d wrong", threads, sizes[i], wrong);
    }
}

typedef struct team {
    int value[DD_MAX_THREADS][16]; /* plain: only barriers order the accesses */
    atomic_int wrong, bodies;
    int n;
} team;

/* Each thread reads its neighbour's number of the last round, then writes its own. */
static void team_body(void *context, int thread, int n) {
    team *t = context;
    if (atomic_fetch_add(&t->bodies, 1) == 0)
        t->n = n;
    for (int round = 0; round < ROUNDS; round++) {
        int neighbour = (thread + 1) % n;
        if (t->value[neighbour][0] != round)
            atomic_fetch_add(&t->wrong, 1);
        dd_barrier();
        t->value[thread][0] = round + 1;
        if (round % 50 == 0 && thread == round / 50 % n)
            usleep(300); /* long enough that the others sleep on the futex */
        dd_barrier();
    }
}

static void check_team(int threads) {
    static team t;
    CHECK(dd_threads_set(threads) == DD_OK, "set");
    memset(&t, 0, sizeof t);
    dd_team(team_body, &t);
    CHECK(t.n == threads && atomic_load(&t.bodies) == threads, "%d threads", t.n);
    CHECK(atomic_load(&t.wrong) == 0, "%d of %d threads", atomic_load(&t.wrong), threads);
    dd_barrier(); /* outside of a team: nothing */
}

/* ---- nesting and several callers ----------------------------------------------------------- */

typedef struct nest {
    atomic_int units, wrong;
    int outer[DD_MAX_THREADS];
} nest;

typedef struct inner {
    nest *up;
    int thread;
} inner;

static void inner_unit(void *context, int64_t unit, int thread) {
    inner *in = context;
    (void)unit;
    atomic_fetch_add(&in->up->units, 1);
    in->up->outer[thread]++; /* a race under the sanitizer if the number were shared */
    if (thread != in->thread)
        atomic_fetch_add(&in->up->wrong, 1);
}

static void inner_team(void *context, int thread, int n) {
    nest *up = context;
    if (thread != 0 || n != 1)
        atomic_fetch_add(&up->wrong, 1);
    dd_barrier(); /* a team of one does not meet the outer team */
    atomic_fetch_add(&up->units, 1);
}

static void outer_unit(void *context, int64_t unit, int thread) {
    inner in = {.up = context, .thread = thread};
    (void)unit;
    dd_parallel(10, inner_unit, &in);
    dd_team(inner_team, context);
    if (dd_threads_set(3) != DD_ESTATE)
        atomic_fetch_add(&in.up->wrong, 1);
}

static void outer_team(void *context, int thread, int n) {
    (void)n;
    dd_barrier();
    outer_unit(context, 0, thread);
    dd_barrier(); /* the nested regions have given the team back */
}

static void check_nesting(void) {
    static nest up;
    CHECK(dd_threads_set(4) == DD_OK, "set");
    dd_parallel(50, outer_unit, &up);
    CHECK(up.units == 550 && up.wrong == 0, "%d units, %d wrong", up.units, up.wrong);
    dd_team(outer_team, &up);
    CHECK(up.units == 594 && up.wrong == 0, "%d units, %d wrong", up.units, up.wrong);
}

static void *caller_main(void *argument) {
    (void)argument;
    for (int i = 0; i < 30; i++) {
        counts *c = calloc(1, sizeof *c);
        if (!c)
            abort();
        c->threads = 3;
        dd_parallel(100, count_unit, c);
        int wrong = atomic_load(&c->wrong);
        for (int u = 0; u < 100; u++)
            wrong += atomic_load(&c->done[u]) != 1;
        free(c);
        if (wrong)
            return (void *)1;
    }
    return NULL;
}

static void check_callers(void) {
    pthread_t callers[4];
    CHECK(dd_threads_set(3) == DD_OK, "set");
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&callers[i], NULL, caller_main, NULL) == 0, "create");
    for (int i = 0; i < 4; i++) {
        void *wrong = NULL;
        pthread_join(callers[i], &wrong);
        CHECK(!wrong, "caller %d", i);
    }
}

/* ---- flush-to-zero, cancel, fork ----------------------------------------------------------- */

static volatile float smallest = FLT_MIN;

static void flush_unit(void *context, int64_t unit, int thread) {
    (void)unit, (void)thread;
    if (smallest * 0.5f != 0)
        atomic_fetch_add((atomic_int *)context, 1);
}

static void check_flush(void) {
#if defined(__x86_64__) || defined(__aarch64__)
    for (int threads = 1; threads <= 3; threads++) {
        atomic_int kept = 0;
        CHECK(dd_threads_set(threads) == DD_OK, "set");
        dd_parallel(20, flush_unit, &kept);
        dd_parallel(1, flush_unit, &kept);
        CHECK(kept == 0, "%d of 21 units kept denormal numbers", kept);
        CHECK(smallest * 0.5f != 0, "the caller has them again");
    }
#endif
}

static atomic_int looks;
static pthread_t looker;

static void look(void) {
    if (!pthread_equal(pthread_self(), looker))
        atomic_fetch_add(&looks, 1000);
    if (atomic_fetch_add(&looks, 1) == 1)
        dd_cancel_set(true);
}

static void wait_for_cancel(void *context, int64_t unit, int thread) {
    (void)context, (void)thread;
    double end = dd_seconds() + 5;
    if (unit == 0) /* the first unit ends at once: its thread waits for the rest of the region */
        return;
    while (!dd_cancelled() && dd_seconds() < end)
        usleep(1000);
}

static void check_cancel(void) {
    looker = pthread_self();
    CHECK(!dd_cancelled(), "not raised");
    for (int threads = 1; threads <= 3; threads++) {
        atomic_store(&looks, 0);
        CHECK(dd_threads_set(threads) == DD_OK, "set");
        dd_cancel_look(look);
        double begin = dd_seconds();
        dd_parallel(3, wait_for_cancel, NULL);
        double took = dd_seconds() - begin;
        CHECK(dd_cancelled() && looks >= 2 && looks < 10, "%d looks", looks);
        CHECK(took > 0.09 && took < 1, "raised at the second look, %.3f s", took);
        dd_cancel_look(NULL);
        dd_cancel_set(false);
        CHECK(!dd_cancelled(), "lowered");
    }
}

/* In the child: regions as before, with workers of its own. */
static int child_main(void) {
    counts *c = calloc(1, sizeof *c);
    if (!c)
        return 3;
    c->threads = 4;
    dd_parallel(UNITS, count_unit, c);
    static team t;
    memset(&t, 0, sizeof t);
    dd_team(team_body, &t);
    int wrong = atomic_load(&c->wrong) + atomic_load(&t.wrong) + (t.n != 4);
    for (int u = 0; u < UNITS; u++)
        wrong += atomic_load(&c->done[u]) != 1;
    free(c);
    return wrong ? 1 : 0;
}

static void *busy_main(void *stop) {
    static counts c;
    c.threads = 4;
    while (!atomic_load((atomic_bool *)stop))
        dd_parallel(100, count_unit, &c);
    return NULL;
}

/* Forks while the pool rests, and while another thread holds it. */
static void check_fork(bool busy) {
#ifdef DD_HAS_TSAN /* does not follow threads of a forked child */
    if (busy || !busy)
        return;
#endif
    if (getenv("DD_CHECK_NO_FORK")) { /* for qemu-user, which crashes at threads of a child */
        printf("threads: fork was not checked (DD_CHECK_NO_FORK)\n");
        return;
    }
    pthread_t thread;
    atomic_bool stop = false;
    CHECK(dd_threads_set(4) == DD_OK, "set");
    if (busy)
        CHECK(pthread_create(&thread, NULL, busy_main, &stop) == 0, "create");
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            _exit(child_main());
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0, "child: %d", status);
        CHECK(child_main() == 0, "the parent goes on");
    }
    atomic_store(&stop, true);
    if (busy)
        pthread_join(thread, NULL);
}

/* ---- the number of threads ----------------------------------------------------------------- */

static void check_number(void) {
    CHECK(dd_threads() == 5, "DD_NUM_THREADS: %d", dd_threads());
    const int bad[] = {0, -1, DD_MAX_THREADS + 1};
    for (int i = 0; i < 3; i++)
        CHECK(dd_threads_set(bad[i]) == DD_EVALUE && dd_threads() == 5, "%d", bad[i]);
    CHECK(strstr(dd_message(), "threads: 257 came"), "%s", dd_message());
    CHECK(dd_cpus_allowed() >= 1, "%d", dd_cpus_allowed());
}

static void write_file(const char *folder, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0, "%s", path);
    if (file)
        fclose(file);
}

static void check_quota(void) {
    char root[] = "/tmp/check_threads_XXXXXX", command[256];
    CHECK(mkdtemp(root), "mkdtemp");
    snprintf(command, sizeof command, "mkdir -p %s/a/b %s/cpu/job %s/c", root, root, root);
    CHECK(system(command) == 0, "%s", command);
    write_file(root, "a/cpu.max", "250000 100000\n");
    write_file(root, "a/b/cpu.max", "max 100000\n");
    write_file(root, "c/cpu.max", "nonsense\n");
    write_file(root, "cpu/cpu.cfs_quota_us", "700000\n");
    write_file(root, "cpu/cpu.cfs_period_us", "100000\n");
    write_file(root, "cpu/job/cpu.cfs_quota_us", "-1\n");
    write_file(root, "cpu/job/cpu.cfs_period_us", "100000\n");
    const struct {
        const char *list;
        int quota;
    } rows[] = {
        {"0::/a\n", 3},                         /* 2.5 CPUs, rounded up */
        {"0::/a/b\n", 3},                       /* the parent's quota counts */
        {"0::/\n", 0},                          /* none */
        {"0::/c\n", 0},                         /* a file that says nothing */
        {"0::/a/gone/away\n", 3},               /* a path of the host: its parents that exist */
        {"3:cpu,cpuacct:/job\n", 7},            /* version 1 */
        {"3:cpuacct,cpu:/job\n0::/a/b\n", 3},   /* both */
        {"3:cpuset:/job\n2:cpuacct:/job\n", 0}, /* other controllers */
        {"", 0},
        {"garbage\n:\n", 0},
    };
    char list[256];
    snprintf(list, sizeof list, "%s/list", root);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        write_file(root, "list", rows[i].list);
        int quota = dd_cpus_quota(list, root);
        CHECK(quota == rows[i].quota, "row %zu: %d", i, quota);
    }
    CHECK(dd_cpus_quota("/nonexistent", root) == 0, "no list");
    snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0, "%s", command);
}

int main(void) {
    setenv("DD_NUM_THREADS", "5", 1);
    check_number();
    for (int threads = 1; threads <= 8; threads++) {
        check_units(threads);
        check_team(threads);
    }
    check_nesting();
    check_callers();
    check_flush();
    check_cancel();
    check_fork(false);
    check_fork(true);
    check_quota();
    CHECK(dd_threads_set(1) == DD_OK, "the workers end");
    return check_done("threads");
}
