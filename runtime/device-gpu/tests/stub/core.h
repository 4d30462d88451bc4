/* What the stubs of both drivers share: one device whose memory is the host's, that writes down what it does, records,
   and fails when told to. Work of a stream waits until somebody waits for it, and then is done as far as that: memory that
   is touched too early shows. A test loads a copy of the library of its own, so all state is global.

   What modules are and how kernels are computed says the file KERNELS. */
#include "log.h"

/* A module that is loaded; `state` is for KERNELS. */
struct Module { char name[128]; int buffers, words, alive, shared; void *state; };
struct Extent { unsigned grid[3], block[3], shared; };

#ifndef KERNELS
#define KERNELS "kernels.h"
#endif
#include KERNELS

/* Memory of the device: named m0, m1, .. in order. Behind each is a page that nobody may touch. */
static struct { char *map, *start; size_t map_bytes, bytes; int alive; } memory[COUNT_MAX];
static int memory_count;
static uint64_t memory_used;

static int take(uint64_t *at, size_t bytes) {
    if (memory_count == COUNT_MAX || bytes == 0) return BAD_VALUE;
    if (bytes > memory_total - memory_used) return NO_MEMORY;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page;
    char *map = mmap(NULL, inner + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + inner, page, PROT_NONE)) return NO_MEMORY;
    char *start = map + (inner - bytes) / 256 * 256;
    memset(start, 0xa5, bytes);
    memory[memory_count].map = map;
    memory[memory_count].map_bytes = inner + page;
    memory[memory_count].start = start;
    memory[memory_count].bytes = bytes;
    memory[memory_count].alive = 1;
    say("take m%d %zu", memory_count++, bytes);
    live[MEMORY]++;
    memory_used += bytes;
    *at = (uint64_t)(uintptr_t)start;
    return 0;
}

static inline int free_memory(size_t *free_bytes, size_t *total) {
    *free_bytes = memory_total - memory_used;
    *total = memory_total;
    return 0;
}

/* Index of the memory that holds all of a range, or -1. */
static int find(uint64_t at, size_t bytes) {
    for (int i = 0; i < memory_count; i++) {
        uint64_t start = (uint64_t)(uintptr_t)memory[i].start;
        if (memory[i].alive && at >= start && at + bytes <= start + memory[i].bytes) return i;
    }
    return -1;
}

static const char *spell(uint64_t at, char *into) {
    int i = find(at, 0);
    if (i < 0) sprintf(into, "nowhere");
    else sprintf(into, "m%d+%d", i, (int)(at - (uint64_t)(uintptr_t)memory[i].start));
    return into;
}

/* The recording, and what is made of recordings. Handles are indices and one more. */
enum Verb { LAUNCH, FILL, COPY, COPY_IN, COPY_OUT, RUN };
struct Work {
    enum Verb verb;
    int function;
    struct Extent extent;
    uint64_t buffers[BUFFERS_MAX];
    uint32_t words[WORDS_MAX];
    uint64_t info; /* where the words are, if they are read when the kernel runs */
    uint64_t to, from;
    size_t bytes;
    uint32_t word;
    void *host;
    int executable;
};
struct Works { struct Work *all; int count, alive; };
static struct Works graphs[COUNT_MAX], executables[COUNT_MAX];
static int graph_count, executable_count;

/* Streams: the work that waits, how much was done before it, and what is recorded. Handles are indices from FIRST_STREAM on. */
enum { STREAM_COUNT_MAX = 64, FIRST_STREAM = 77 };
struct Stream { struct Works queue, recorded; uint64_t done; int alive, recording, broken; };
static struct Stream streams[STREAM_COUNT_MAX];
static int stream_count;
/* The stream that this thread records. */
static __thread struct Stream *recorded_here;

static struct Module modules[COUNT_MAX];
static int module_count;

static int perform(const struct Work *work, const char *how) {
    char a[64], b[64], line[LINE_MAX_BYTES];
    if (work->verb == FILL) {
        say("%sfill %s %u x%zu", how, spell(work->to, a), work->word, work->bytes / 4);
        if (find(work->to, work->bytes) < 0 || work->to % 4) return misuse("fill");
        for (size_t i = 0; i < work->bytes / 4; i++) ((uint32_t *)(uintptr_t)work->to)[i] = work->word;
        return 0;
    }
    if (work->verb == COPY) {
        say("%scopy %s %s %zu", how, spell(work->to, a), spell(work->from, b), work->bytes);
        if (find(work->to, work->bytes) < 0 || find(work->from, work->bytes) < 0) return misuse("copy");
        memmove((void *)(uintptr_t)work->to, (void *)(uintptr_t)work->from, work->bytes);
        return 0;
    }
    if (work->verb == COPY_IN) {
        say("copy in %s %zu", spell(work->to, a), work->bytes);
        if (find(work->to, work->bytes) < 0) return misuse("copy in");
        memcpy((void *)(uintptr_t)work->to, work->host, work->bytes);
        return 0;
    }
    if (work->verb == COPY_OUT) {
        say("copy out %s %zu", spell(work->from, a), work->bytes);
        if (find(work->from, work->bytes) < 0) return misuse("copy out");
        memcpy(work->host, (void *)(uintptr_t)work->from, work->bytes);
        return 0;
    }
    if (work->verb == RUN) {
        const struct Works *of = &executables[work->executable];
        say("run x%d", work->executable);
        for (int i = 0; i < of->count; i++) {
            int code = perform(&of->all[i], "  ");
            if (code) return code;
        }
        return 0;
    }
    int failed = enter("kernel", 0);
    if (failed) return failed;
    if (!modules[work->function].alive) return misuse("launch");
    uint64_t at[BUFFERS_MAX];
    uint32_t words[WORDS_MAX];
    memcpy(at, work->buffers, sizeof at);
    int n = modules[work->function].words;
    memcpy(words, work->words, sizeof words);
    if (work->info) {
        if (find(work->info, 4 * n) < 0) return misuse("info");
        memcpy(words, (void *)(uintptr_t)work->info, 4 * n);
    }
    const unsigned *g = work->extent.grid, *k = work->extent.block;
    int len = snprintf(line, sizeof line, "launch %s %u,%u,%u x %u,%u,%u shared %u (", modules[work->function].name,
                       g[0], g[1], g[2], k[0], k[1], k[2], work->extent.shared);
    for (int i = 0; i < modules[work->function].buffers; i++) {
        if (find(at[i], 1) < 0) return misuse("argument");
        len += snprintf(line + len, sizeof line - len, "%s%s", i ? " " : "", spell(at[i], a));
    }
    len += snprintf(line + len, sizeof line - len, ") [");
    for (int i = 0; i < n; i++) len += snprintf(line + len, sizeof line - len, "%s%u", i ? " " : "", words[i]);
    say("%s%s]", how, line);
    if (!g[0] || !g[1] || !g[2]) return misuse("grid");
    if (work->extent.shared > 48 * 1024 && !modules[work->function].shared) return misuse("shared memory");
    return compute(&modules[work->function], &work->extent, at, words);
}

static int add(struct Works *to, const struct Work *work) {
    to->all = realloc(to->all, (to->count + 1) * sizeof *work);
    to->all[to->count++] = *work;
    return 0;
}

static int queue(struct Stream *stream, const struct Work *work) {
    return add(stream->recording ? &stream->recorded : &stream->queue, work);
}

/* Does what waits until `mark` is done. A kernel that fails ends all of it. */
static int work_off(struct Stream *stream, uint64_t mark) {
    struct Works *waits = &stream->queue;
    int code = 0, n = 0;
    while (stream->done + n < mark && n < waits->count && !code) code = perform(&waits->all[n++], "");
    if (code) n = waits->count;
    if (n) memmove(waits->all, waits->all + n, (waits->count - n) * sizeof *waits->all);
    waits->count -= n;
    stream->done += n;
    return code;
}

/* The same of all streams, to the end. */
static int flush(void) {
    int code = 0;
    for (int i = 0; i < stream_count; i++) {
        int failed = work_off(&streams[i], UINT64_MAX);
        if (!code) code = failed;
    }
    return code;
}

/* Whether something that waits, or is part of a run that waits, `is` what is asked for. */
typedef int Is(const struct Work *work, uint64_t what);
static int is_run(const struct Work *work, uint64_t what) { return work->verb == RUN && work->executable == (int)what; }
static int is_launch(const struct Work *work, uint64_t what) {
    return work->verb == LAUNCH && work->function == (int)what;
}

static int waits(Is *is, uint64_t what) {
    for (int i = 0; i < stream_count; i++)
        for (int j = 0; j < streams[i].queue.count; j++) {
            const struct Work *work = &streams[i].queue.all[j];
            if (is(work, what)) return 1;
            if (work->verb != RUN) continue;
            const struct Works *of = &executables[work->executable];
            for (int k = 0; k < of->count; k++)
                if (is(&of->all[k], what)) return 1;
        }
    return 0;
}

static int refuse(struct Stream *stream) {
    stream->broken = 1;
    return CAPTURE_REFUSED;
}

/* What waits for the device is refused to a thread that records, and breaks the recording. */
static int not_recording(void) { return recorded_here ? refuse(recorded_here) : 0; }

static int begin(struct Stream *stream) {
    if (stream->recording || recorded_here || graph_count == COUNT_MAX) return misuse("begin");
    stream->recording = 1;
    stream->broken = 0;
    stream->recorded = (struct Works){0};
    recorded_here = stream;
    say("begin");
    return 0;
}

static int end(struct Stream *stream, uint64_t *graph) {
    *graph = 0;
    if (!stream->recording || recorded_here != stream) return misuse("end");
    stream->recording = 0;
    recorded_here = NULL;
    say("end g%d of %d", graph_count, stream->recorded.count);
    if (stream->broken) {
        free(stream->recorded.all);
        return CAPTURE_BROKEN;
    }
    graphs[graph_count] = stream->recorded;
    graphs[graph_count].alive = 1;
    live[GRAPH]++;
    *graph = (uint64_t)++graph_count;
    return 0;
}

static int alive(const struct Works *of, int count, uint64_t handle) {
    return handle >= 1 && handle <= (uint64_t)count && of[handle - 1].alive;
}

static int instantiate(uint64_t *made, uint64_t graph) {
    if (not_recording()) return CAPTURE_REFUSED;
    if (!alive(graphs, graph_count, graph)) return misuse("instantiate");
    struct Works *from = &graphs[graph - 1], *to = &executables[executable_count];
    to->count = from->count;
    to->all = malloc(from->count * sizeof *to->all + 1);
    if (from->count) memcpy(to->all, from->all, from->count * sizeof *to->all);
    to->alive = 1;
    live[EXECUTABLE]++;
    say("instantiate g%d x%d", (int)graph - 1, executable_count);
    *made = (uint64_t)++executable_count;
    return 0;
}

static int destroy_graph(uint64_t graph) {
    if (!alive(graphs, graph_count, graph)) return misuse("destroy graph");
    graphs[graph - 1].alive = 0;
    live[GRAPH]--;
    return 0;
}

static int upload(struct Stream *stream, uint64_t executable) {
    if (stream->recording) return refuse(stream);
    if (!alive(executables, executable_count, executable)) return misuse("upload");
    say("upload x%d", (int)executable - 1);
    return 0;
}

static int run(struct Stream *stream, uint64_t executable) {
    if (stream->recording) return refuse(stream);
    if (!alive(executables, executable_count, executable)) return misuse("run");
    struct Work work = {.verb = RUN, .executable = (int)executable - 1};
    return queue(stream, &work);
}

static int destroy(uint64_t executable) {
    if (!alive(executables, executable_count, executable) || waits(is_run, executable - 1))
        return misuse("destroy executable");
    say("destroy x%d", (int)executable - 1);
    executables[executable - 1].alive = 0;
    live[EXECUTABLE]--;
    return 0;
}

static int give_back(uint64_t at) {
    flush();
    int i = find(at, 0);
    if (i < 0 || (uint64_t)(uintptr_t)memory[i].start != at) return misuse("give back");
    say("give back m%d", i);
    memory[i].alive = 0;
    munmap(memory[i].map, memory[i].map_bytes);
    live[MEMORY]--;
    memory_used -= memory[i].bytes;
    return 0;
}

/* Memory of the host that copies go through. What is given back is filled with nonsense first. */
static struct { char *start; size_t bytes; int alive; } pinned[COUNT_MAX];
static int pinned_count;

static int take_pinned(void **at, size_t bytes) {
    if (not_recording()) return CAPTURE_REFUSED;
    if (pinned_count == COUNT_MAX) return NO_MEMORY;
    *at = pinned[pinned_count].start = malloc(bytes);
    pinned[pinned_count].bytes = bytes;
    pinned[pinned_count++].alive = 1;
    say("pin %zu", bytes);
    live[PINNED]++;
    return 0;
}

/* Index of the pinned memory that holds all of a range, or -1. */
static int find_pinned(const void *at, size_t bytes) {
    for (int i = 0; i < pinned_count; i++) {
        const char *start = pinned[i].start, *from = at;
        if (pinned[i].alive && from >= start && from + bytes <= start + pinned[i].bytes) return i;
    }
    return -1;
}

static int is_through(const struct Work *work, uint64_t what) {
    return (work->verb == COPY_IN || work->verb == COPY_OUT) && find_pinned(work->host, 0) == (int)what;
}

static int give_back_pinned(void *at) {
    int i = find_pinned(at, 0);
    if (i < 0 || pinned[i].start != at || waits(is_through, (uint64_t)i)) return misuse("unpin");
    say("unpin");
    memset(at, 0x5a, pinned[i].bytes);
    pinned[i].alive = 0;
    free(at);
    live[PINNED]--;
    return 0;
}

static int copy_in(struct Stream *stream, uint64_t to, const void *from, size_t bytes) {
    struct Work work = {.verb = COPY_IN, .to = to, .host = (void *)from, .bytes = bytes};
    if (stream->recording) return refuse(stream);
    return find_pinned(from, bytes) < 0 ? misuse("copy from memory that is not pinned") : queue(stream, &work);
}

static int copy_out(struct Stream *stream, void *to, uint64_t from, size_t bytes) {
    struct Work work = {.verb = COPY_OUT, .host = to, .from = from, .bytes = bytes};
    if (stream->recording) return refuse(stream);
    return find_pinned(to, bytes) < 0 ? misuse("copy to memory that is not pinned") : queue(stream, &work);
}

static int copy(struct Stream *stream, uint64_t to, uint64_t from, size_t bytes) {
    struct Work work = {.verb = COPY, .to = to, .from = from, .bytes = bytes};
    return queue(stream, &work);
}

static int fill(struct Stream *stream, uint64_t to, uint32_t word, size_t words) {
    struct Work work = {.verb = FILL, .to = to, .word = word, .bytes = 4 * words};
    return queue(stream, &work);
}

/* Events: a place in a stream. Handles are indices and one more. */
static struct { struct Stream *stream; uint64_t mark; int alive; } events[COUNT_MAX];
static int event_count;

static int new_event(uint64_t *event) {
    if (event_count == COUNT_MAX) return NO_MEMORY;
    events[event_count].alive = 1;
    live[EVENT]++;
    *event = (uint64_t)++event_count;
    return 0;
}

static int is_event(uint64_t event) {
    return event >= 1 && event <= (uint64_t)event_count && events[event - 1].alive;
}

static int record_event(uint64_t event, struct Stream *stream) {
    if (!is_event(event)) return misuse("record event");
    if (stream->recording) return refuse(stream);
    events[event - 1].stream = stream;
    events[event - 1].mark = stream->done + stream->queue.count;
    return 0;
}

static int wait_for_event(uint64_t event) {
    if (!is_event(event)) return misuse("wait for event");
    if (not_recording()) return CAPTURE_REFUSED;
    struct Stream *stream = events[event - 1].stream;
    return stream ? work_off(stream, events[event - 1].mark) : 0;
}

static int destroy_event(uint64_t event) {
    if (!is_event(event)) return misuse("destroy event");
    events[event - 1].alive = 0;
    live[EVENT]--;
    return 0;
}

static int load(uint64_t *module, const char *image) {
    if (not_recording()) return CAPTURE_REFUSED;
    if (module_count == COUNT_MAX) return NO_MEMORY;
    int code = read_image(&modules[module_count], image);
    if (code) return code;
    modules[module_count].alive = 1;
    live[MODULE]++;
    *module = (uint64_t)++module_count;
    return 0;
}

static int unload(uint64_t module) {
    if (module < 1 || module > (uint64_t)module_count || !modules[module - 1].alive || waits(is_launch, module - 1))
        return misuse("unload");
    forget(&modules[module - 1]);
    modules[module - 1].alive = 0;
    live[MODULE]--;
    return 0;
}

static int function(uint64_t *function, uint64_t module, const char *name) {
    if (module < 1 || module > (uint64_t)module_count) return misuse("function");
    if (strcmp(modules[module - 1].name, name)) return NOT_FOUND;
    *function = module;
    return 0;
}

static inline int allow_shared(uint64_t function, int bytes) {
    say("allow %s %d", modules[function - 1].name, bytes);
    modules[function - 1].shared = 1;
    return 0;
}

/* `info_in_memory`: whether the last argument is a pointer to the device's memory, else it points to the words. */
static int launch(struct Stream *stream, uint64_t function, const unsigned *grid, const unsigned *block, unsigned shared,
                  void **arguments, int info_in_memory) {
    if (function < 1 || function > (uint64_t)module_count) return misuse("launch");
    struct Work work = {.verb = LAUNCH, .function = (int)function - 1, .extent.shared = shared};
    memcpy(work.extent.grid, grid, sizeof work.extent.grid);
    memcpy(work.extent.block, block, sizeof work.extent.block);
    int n = modules[function - 1].buffers;
    for (int i = 0; i < n; i++) work.buffers[i] = *(uint64_t *)arguments[i];
    if (modules[function - 1].words == 0) return queue(stream, &work);
    if (info_in_memory) work.info = *(uint64_t *)arguments[n];
    else memcpy(work.words, arguments[n], 4 * modules[function - 1].words);
    return queue(stream, &work);
}

static int synchronize(struct Stream *stream) {
    return stream->recording ? refuse(stream) : work_off(stream, UINT64_MAX);
}

static int new_stream(uint64_t *stream) {
    if (stream_count == STREAM_COUNT_MAX) return NO_MEMORY;
    streams[stream_count].alive = 1;
    live[STREAM]++;
    *stream = (uint64_t)(FIRST_STREAM + stream_count++);
    return 0;
}

static struct Stream *find_stream(uint64_t handle) {
    uint64_t i = handle - FIRST_STREAM;
    if (i < (uint64_t)stream_count && streams[i].alive) return &streams[i];
    misuse("no stream of this driver");
    return NULL;
}

static int destroy_stream(struct Stream *stream) {
    if (stream->queue.count) misuse("destroy stream");
    stream->alive = 0;
    live[STREAM]--;
    return 0;
}
/* Declares `s`, the stream of a handle. */
#define STREAM_OF(handle) struct Stream *s = find_stream((uint64_t)(uintptr_t)(handle)); if (!s) return BAD_HANDLE

static const char *name_of_error(int code) {
    switch (code) {
    case BAD_VALUE: return "INVALID_VALUE";
    case NO_MEMORY: return "OUT_OF_MEMORY";
    case BAD_IMAGE: return "INVALID_IMAGE";
    case WRONG_ARCH: return "NO_BINARY_FOR_GPU";
    case CAPTURE_REFUSED: return "STREAM_CAPTURE_UNSUPPORTED";
    case CAPTURE_BROKEN: return "STREAM_CAPTURE_INVALIDATED";
    case NOT_FOUND: return "NOT_FOUND";
    case 719: return "LAUNCH_FAILED";
    default: return "UNKNOWN";
    }
}
