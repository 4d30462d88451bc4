/* What the stubs of both drivers share: one device whose memory is the host's, that writes down what it does, records,
   and fails when told to. Work waits until somebody waits for it, so memory that is touched too early shows. A test
   loads a copy of the library of its own, so all state is global.

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

static int take(uint64_t *at, size_t bytes) {
    if (memory_count == COUNT_MAX || bytes == 0) return BAD_VALUE;
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
    *at = (uint64_t)(uintptr_t)start;
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
static struct Works graphs[COUNT_MAX], executables[COUNT_MAX], stream;
static int graph_count, executable_count, recording, broken;

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

static int queue(const struct Work *work) {
    struct Works *to = recording ? &graphs[graph_count] : &stream;
    to->all = realloc(to->all, (to->count + 1) * sizeof *work);
    to->all[to->count++] = *work;
    return 0;
}

/* Does what waits. A kernel that fails ends it. */
static int flush(void) {
    int code = 0;
    for (int i = 0; i < stream.count && !code; i++) code = perform(&stream.all[i], "");
    stream.count = 0;
    return code;
}

/* What waits is refused while recording, and breaks the recording. */
static int not_recording(void) {
    if (!recording) return 0;
    broken = 1;
    return CAPTURE_REFUSED;
}

static int begin(void) {
    if (recording || graph_count == COUNT_MAX) return misuse("begin");
    recording = 1;
    broken = 0;
    say("begin");
    return 0;
}

static int end(uint64_t *graph) {
    *graph = 0;
    if (!recording) return misuse("end");
    recording = 0;
    say("end g%d of %d", graph_count, graphs[graph_count].count);
    if (broken) {
        graphs[graph_count].count = 0;
        return CAPTURE_BROKEN;
    }
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

static int run(uint64_t executable) {
    if (not_recording()) return CAPTURE_REFUSED;
    if (!alive(executables, executable_count, executable)) return misuse("run");
    struct Work work = {.verb = RUN, .executable = (int)executable - 1};
    return queue(&work);
}

static int destroy(uint64_t executable) {
    if (!alive(executables, executable_count, executable) || stream.count) return misuse("destroy executable");
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
    return 0;
}

static int take_pinned(void **at, size_t bytes) {
    if (not_recording()) return CAPTURE_REFUSED;
    *at = malloc(bytes);
    say("pin %zu", bytes);
    live[PINNED]++;
    return 0;
}

static int give_back_pinned(void *at) {
    if (stream.count) misuse("unpin");
    say("unpin");
    free(at);
    live[PINNED]--;
    return 0;
}

static int copy_in(uint64_t to, const void *from, size_t bytes) {
    struct Work work = {.verb = COPY_IN, .to = to, .host = (void *)from, .bytes = bytes};
    return not_recording() ? CAPTURE_REFUSED : queue(&work);
}

static int copy_out(void *to, uint64_t from, size_t bytes) {
    struct Work work = {.verb = COPY_OUT, .host = to, .from = from, .bytes = bytes};
    return not_recording() ? CAPTURE_REFUSED : queue(&work);
}

static int copy(uint64_t to, uint64_t from, size_t bytes) {
    struct Work work = {.verb = COPY, .to = to, .from = from, .bytes = bytes};
    return queue(&work);
}

static int fill(uint64_t to, uint32_t word, size_t words) {
    struct Work work = {.verb = FILL, .to = to, .word = word, .bytes = 4 * words};
    return queue(&work);
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
    if (module < 1 || module > (uint64_t)module_count || !modules[module - 1].alive || stream.count)
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
static int launch(uint64_t function, const unsigned *grid, const unsigned *block, unsigned shared, void **arguments,
                  int info_in_memory) {
    if (function < 1 || function > (uint64_t)module_count) return misuse("launch");
    struct Work work = {.verb = LAUNCH, .function = (int)function - 1, .extent.shared = shared};
    memcpy(work.extent.grid, grid, sizeof work.extent.grid);
    memcpy(work.extent.block, block, sizeof work.extent.block);
    int n = modules[function - 1].buffers;
    for (int i = 0; i < n; i++) work.buffers[i] = *(uint64_t *)arguments[i];
    if (modules[function - 1].words == 0) return queue(&work);
    if (info_in_memory) work.info = *(uint64_t *)arguments[n];
    else memcpy(work.words, arguments[n], 4 * modules[function - 1].words);
    return queue(&work);
}

static int synchronize(void) {
    return not_recording() ? CAPTURE_REFUSED : flush();
}

static int new_stream(uint64_t *stream) {
    *stream = 77;
    live[STREAM]++;
    return 0;
}

static int same_stream(uint64_t stream) {
    return stream == 77 ? 0 : misuse("another stream");
}
#define STREAM_OF(stream) do { if (same_stream((uint64_t)(uintptr_t)stream)) return BAD_HANDLE; } while (0)

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
