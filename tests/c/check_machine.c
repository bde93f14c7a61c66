/* The machine's measurement: plausible on any number of threads, and whole when memory fails. */
#include <string.h>

#include "check.h"

#include "base/cpu.h"
#include "base/memory.h"
#include "base/threads.h"
#include "graph/machine.h"

static void check_threads(int threads) {
    dd_machine m;
    CHECK(dd_threads_set(threads) == DD_OK, "%d threads", threads);
    CHECK(dd_machine_measure(&m) == DD_OK, "%s", dd_message());
    CHECK(m.threads == threads, "%d", m.threads);
    CHECK(strcmp(m.isa, dd_isa_name(dd_isa_best())) == 0, "%s", m.isa);
    /* Sanitizers, emulators and the scalar level are slow; no machine is that fast. */
    CHECK(m.flops > 1e5 && m.flops < 1e14, "%g", m.flops);
    CHECK(m.bytes_per_second > 1e5 && m.bytes_per_second < 1e14, "%g", m.bytes_per_second);
    CHECK(m.clock_seconds > 0 && m.clock_seconds < 0.1, "%g", m.clock_seconds);
}

/* A result is untouched on failure, and nothing leaks. */
static void check_no_memory(void) {
    dd_machine m = {.threads = -1};
    uint64_t live = dd_alloc_live();
    dd_alloc_fail_at(1);
    CHECK(dd_machine_measure(&m) == DD_ENOMEM, "%s", dd_message());
    dd_alloc_fail_at(0);
    CHECK(m.threads == -1, "%d", m.threads);
    CHECK(dd_alloc_live() == live, "%llu blocks", (unsigned long long)dd_alloc_live());
}

int main(void) {
    check_threads(1);
    check_threads(2);
    check_no_memory();
    return check_done("check_machine");
}
