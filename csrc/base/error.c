/* The thread's failure message. A fixed buffer and no heap: a message must also be possible when
 * memory is short. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 1024 };

static _Thread_local char message[MESSAGE_BYTES];

dd_status(dd_fail)(dd_status status, const char *format, ...) {
    /* Formatted aside, because an argument may be dd_message() itself. */
    char text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0) /* an encoding error of printf: say what we have */
        text[0] = '\0';
    memcpy(message, text, sizeof text);
    return status;
}

dd_status(dd_fail_within)(dd_status status, const char *format, ...) {
    char text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t used = length < 0 ? 0 : (size_t)length;
    if (used > sizeof text - 1)
        used = sizeof text - 1;
    /* The prefix is whole and the older message loses its end: the place matters more. */
    const char *parts[] = {": ", message};
    for (int i = 0; i < 2; i++) {
        size_t room = sizeof text - 1 - used, bytes = strlen(parts[i]);
        bytes = bytes < room ? bytes : room;
        memcpy(text + used, parts[i], bytes);
        used += bytes;
    }
    text[used] = '\0';
    memcpy(message, text, sizeof text);
    return status;
}

const char *dd_message(void) {
    return message;
}
