/* The cancel flag. One for the process: Ctrl-C ends every long call that is under way. */
#include <stdatomic.h>
#include <stddef.h>

#include "base/threads.h"
#include "base/wait.h"

#define LOOK_SECONDS 0.05

static atomic_bool cancel;

static _Thread_local struct {
    void (*look)(void);
    double last; /* when it was called, by dd_seconds() */
} watcher;

void dd_cancel_set(bool on) {
    atomic_store(&cancel, on);
}

void dd_cancel_look(void (*look)(void)) {
    watcher.look = look;
    watcher.last = look ? dd_seconds() : 0;
}

bool dd_cancel_looks(void) {
    return watcher.look != NULL;
}

bool dd_cancelled(void) {
    if (watcher.look) {
        double now = dd_seconds();
        if (now - watcher.last >= LOOK_SECONDS) {
            watcher.last = now; /* before the call: `look` may poll the flag itself */
            watcher.look();
        }
    }
    return atomic_load_explicit(&cancel, memory_order_relaxed);
}
