/* Statuses and messages.
 *
 * Every function that can fail returns a dd_status. On failure it leaves its results untouched and
 * a message "who: what came, what was needed" in a thread-local string. The caller keeps what it
 * passed in. A function has one exit label, where it frees what it made. */
#ifndef DD_BASE_ERROR_H
#define DD_BASE_ERROR_H

typedef enum dd_status {
    DD_OK = 0,
    DD_EVALUE,    /* a value is out of range or inconsistent: ValueError */
    DD_ETYPE,     /* a wrong type of data: TypeError */
    DD_ENOMEM,    /* MemoryError */
    DD_EIO,       /* the operating system refused: OSError */
    DD_EFORMAT,   /* a file breaks its format: deepseek_det.Error */
    DD_ESTATE,    /* the object is not in a state for this call: deepseek_det.Error */
    DD_ECANCELED, /* the cancel flag was raised: KeyboardInterrupt */
} dd_status;

/* Stores the formatted message (cut at 1023 bytes) and returns `status` (not DD_OK), so that a
 * check reads `return dd_fail(DD_EVALUE, "conv: stride is %d, at least 1 is needed", stride);`. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
dd_status
dd_fail(dd_status status, const char *format, ...);

/* Puts "prefix: " before the current message; for callers that know the place of a failure. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
dd_status
dd_fail_within(dd_status status, const char *format, ...);

/* Tells the compiler that these two never return DD_OK; without it gcc takes results that are left
 * untouched on failure for uninitialized ones at every DD_TRY. */
static inline dd_status dd_failed(dd_status status) {
    if (status == DD_OK)
        __builtin_unreachable();
    return status;
}
#define dd_fail(...) dd_failed((dd_fail)(__VA_ARGS__))
#define dd_fail_within(...) dd_failed((dd_fail_within)(__VA_ARGS__))

/* The message of this thread's last failure; never NULL, valid until the thread's next failure. */
const char *dd_message(void);

/* Returns from the enclosing function when `call` fails (nothing to clean up). */
#define DD_TRY(call)                                                                               \
    do {                                                                                           \
        dd_status dd_try_status = (call);                                                          \
        if (dd_try_status != DD_OK)                                                                \
            return dd_try_status;                                                                  \
    } while (0)

/* Sets `status` and jumps to the label `done` when `call` fails. */
#define DD_TRY_DONE(call)                                                                          \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != DD_OK)                                                                       \
            goto done;                                                                             \
    } while (0)

#endif
