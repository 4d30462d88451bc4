/* Settings of a test, the log, what is taken, and calls that fail. Included by core.h. */
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { COUNT_MAX = 1 << 14, LINE_MAX_BYTES = 1024, BUFFERS_MAX = 16, WORDS_MAX = 64 };
enum { BAD_VALUE = 1, NO_MEMORY = 2, NO_DEVICE = 100, BAD_DEVICE = 101, BAD_IMAGE = 200, WRONG_ARCH = 209,
       BAD_HANDLE = 400, NOT_FOUND = 500, CAPTURE_REFUSED = 900, CAPTURE_BROKEN = 901 };

/* Settings of a test. */
#ifndef CAPABILITY
#define CAPABILITY 90
#endif
static int driver_version = 12090, devices = 1, capability_major = CAPABILITY / 10, capability_minor = CAPABILITY % 10;
static char arch_name[64] = "gfx942:sramecc+:xnack-";
static char fail_name[64];
static int fail_after, fail_code;
static uint64_t memory_total = 1ull << 40;

/* One call at a time: threads that drive streams of their own share this library. Each function of a driver begins with
   LOCK, which it gives back wherever it returns. */
static pthread_mutex_t one_call = PTHREAD_MUTEX_INITIALIZER;
static inline int lock_calls(void) { return pthread_mutex_lock(&one_call); }
static inline void unlock_calls(int *held) { (void)held; pthread_mutex_unlock(&one_call); }
#define LOCK __attribute__((cleanup(unlock_calls), unused)) int held = lock_calls()

void stub_devices(int n) { devices = n; }
void stub_version(int version) { driver_version = version; }
void stub_capability(int major, int minor) { capability_major = major; capability_minor = minor; }
void stub_arch(const char *name) { snprintf(arch_name, sizeof arch_name, "%s", name); }
/* Bytes of the device's memory. */
void stub_memory(uint64_t bytes) { memory_total = bytes; }
/* The call of function `name` after `after` more fails with `code`, and none later. */
void stub_fail(const char *name, int after, int code) {
    snprintf(fail_name, sizeof fail_name, "%s", name);
    fail_after = after;
    fail_code = code;
}

/* The log. */
static char *log_text;
static size_t log_len, log_room;

static void say(const char *format, ...) {
    char line[LINE_MAX_BYTES];
    va_list rest;
    va_start(rest, format);
    int n = vsnprintf(line, sizeof line - 1, format, rest);
    va_end(rest);
    if (n < 0) return;
    if (n > (int)sizeof line - 2) n = sizeof line - 2;
    line[n++] = '\n';
    if (log_len + n + 1 > log_room) {
        log_room = 2 * (log_len + n + 1);
        log_text = realloc(log_text, log_room);
    }
    memcpy(log_text + log_len, line, n);
    log_len += n;
    log_text[log_len] = 0;
}

static int flush(void);
const char *stub_log(void) { LOCK; flush(); return log_text ? log_text : ""; }
void stub_clear(void) { LOCK; flush(); log_len = 0; if (log_text) log_text[0] = 0; }

/* Everything that is taken and given back, by kind. */
enum Kind { MEMORY, PINNED, MODULE, GRAPH, EXECUTABLE, STREAM, CONTEXT, EVENT, KINDS };
static int live[KINDS];
int stub_live(void) {
    int sum = 0;
    for (int i = 0; i < KINDS; i++) sum += live[i];
    return sum;
}
int stub_live_of(int kind) { return live[kind]; }
/* What was done that no driver allows. */
static int wrong;
int stub_wrong(void) { return wrong; }
static int misuse(const char *what) {
    say("MISUSE %s", what);
    wrong++;
    return BAD_VALUE;
}

/* Whether the calling thread has made the context current. */
static __thread int current;
static int enter(const char *name, int needs_current) {
    if (needs_current && !current) return misuse(name);
    if (fail_name[0] && !strcmp(fail_name, name) && fail_after-- == 0) {
        fail_name[0] = 0;
        say("%s fails", name);
        return fail_code;
    }
    return 0;
}
#define ENTER(name) LOCK; do { int code = enter(name, 1); if (code) return code; } while (0)
#define ENTER_EARLY(name) LOCK; do { int code = enter(name, 0); if (code) return code; } while (0)
