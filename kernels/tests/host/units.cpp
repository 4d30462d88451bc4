// Runs a workgroup's units in turn on one thread: a unit goes on until it ends or waits at a barrier, a warp until all its units do.
//
// Where a device would do anything, this says what is wrong: barriers that not all units reach, memory outside the
// buffers, reads of shared memory that nobody wrote (it is not a number before), what the sanitizer of undefined
// behaviour finds (indices outside of arrays, shifts, divisions).
#include "units.h"

#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

const size_t stack_bytes = 1 << 16, guard_bytes = 64, buffers_max = 32;
const int ended = -2, started = -3;
const long warp_units = 32;

#if defined(__x86_64__)
// Saves no more than is needed to go on in the same thread.
typedef void *Place[5];
#define SAVE(place) __builtin_setjmp(place)
#define GO_ON(place) __builtin_longjmp(place, 1)
#else
typedef jmp_buf Place;
#define SAVE(place) _setjmp(place)
#define GO_ON(place) _longjmp(place, 1)
#endif

struct alignas(64) Fiber {
    ucontext_t first;
    Place at;
    // Of the barrier that it waits at.
    int line;
    bool fresh;
    // Of its unit.
    uint3 place;
};

thread_local const Run *run;
thread_local void *bound[buffers_max];
thread_local Fiber *running, *last;
thread_local Place home;
thread_local sigjmp_buf fault;
thread_local bool armed;
thread_local char message[256];

void say(const char *format, ...) {
    // The first is the cause.
    if (message[0] != 0) return;
    va_list rest;
    va_start(rest, format);
    vsnprintf(message, sizeof message, format, rest);
    va_end(rest);
}

// Goes on with a unit, or behind the last with whoever waits for all of them.
[[noreturn]] __attribute__((noinline)) void resume(Fiber *fiber) {
    if (fiber > last) GO_ON(home);
    running = fiber;
    threadIdx = fiber->place;
    if (!fiber->fresh) GO_ON(fiber->at);
    fiber->fresh = false;
    setcontext(&fiber->first);
    __builtin_unreachable();
}

__attribute__((noinline)) void leave(int line) {
    Fiber *fiber = running;
    fiber->line = line;
    if (SAVE(fiber->at) == 0) resume(fiber + 1);
}

// Goes on when all of the warp are here; other warps may be anywhere.
__attribute__((noinline)) void meet(Fiber *fibers, int line) {
    Fiber *fiber = running, *first = fibers + (fiber - fibers) / warp_units * warp_units;
    fiber->line = line;
    if (SAVE(fiber->at) != 0) return;
    if (fiber < first + warp_units - 1 && fiber < last) resume(fiber + 1);
    for (Fiber *other = first; other < fiber; other++)
        if (other->line != line) dream_stop("units of a warp part");
    resume(first);
}

// Until every unit ends or waits.
__attribute__((noinline)) void all_units(Fiber *fibers) {
    if (SAVE(home) == 0) resume(fibers);
}

void enter() {
    // A fiber is used again for the next workgroup, and for the next launch.
    for (;;) {
        run->unit(bound, run->info.data);
        leave(ended);
    }
}

uint3 place(unsigned long i, uint3 size, unsigned long count) {
    if (run->backwards) i = count - 1 - i;
    return {unsigned(i % size.x), unsigned(i / size.x % size.y), unsigned(i / size.x / size.y)};
}

// Workgroups that have run.
thread_local unsigned long count;

// One workgroup; false if something was wrong.
bool workgroup(Fiber *fibers, unsigned long units) {
    count++;
    memset(run->shared.data, 0xff, run->shared.bytes);
    for (unsigned long i = 0; i < units && fibers; i++) fibers[i].line = started;
    for (;;) {
        if (fibers) all_units(fibers);
        for (unsigned long i = 0; i < units && !fibers; i++) {
            threadIdx = place(i, blockDim, units);
            run->unit(bound, run->info.data);
        }
        int line = fibers ? fibers[0].line : ended;
        for (unsigned long i = 1; i < units && fibers; i++) {
            if (fibers[i].line == line) continue;
            say("units part: one %s, another %s", line == ended ? "ends" : "waits",
                fibers[i].line == ended ? "ends" : "waits elsewhere");
        }
        if (line == -1) say("a barrier that orders no memory");
        if (message[0] != 0) return false;
        if (line == ended) return true;
    }
}

// Nothing goes on after this.
void stop(const char *text) {
    say("%s", text);
    if (armed) siglongjmp(fault, 1);
}

void segfault(int, siginfo_t *info, void *) {
    if (!armed) {
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    say("memory outside of all buffers is touched, at %p", info->si_addr);
    siglongjmp(fault, 1);
}

size_t pages(size_t bytes) {
    const size_t page = sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

// Memory that ends where a page ends that nobody may touch, with a guard before it.
struct Guarded {
    unsigned char *map;
    size_t size, bytes;

    void map_bytes(size_t wanted) {
        bytes = wanted;
        size = pages(bytes + guard_bytes);
        map = static_cast<unsigned char *>(
            mmap(nullptr, size + pages(1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(map + size, pages(1), PROT_NONE);
        memset(data() - guard_bytes, 0xa5, guard_bytes);
    }
    unsigned char *data() const { return map + size - bytes; }
    bool whole() const {
        for (size_t i = 1; i <= guard_bytes; i++)
            if (data()[-long(i)] != 0xa5) return false;
        return true;
    }
    void unmap() { munmap(map, size + pages(1)); }
};

// Fibers and their stacks, which a thread keeps: none of them is in a unit between launches.
struct Fibers {
    Guarded stacks, places;
    unsigned long count;

    Fiber *all() const { return reinterpret_cast<Fiber *>(places.data()); }
    void make(unsigned long wanted) {
        stacks.map_bytes(wanted * stack_bytes);
        places.map_bytes(wanted * sizeof(Fiber));
        count = wanted;
        for (unsigned long i = 0; i < count; i++) {
            Fiber &fiber = all()[i];
            fiber.fresh = true;
            getcontext(&fiber.first);
            fiber.first.uc_stack.ss_sp = stacks.data() + i * stack_bytes;
            fiber.first.uc_stack.ss_size = stack_bytes;
            makecontext(&fiber.first, enter, 0);
        }
    }
    void unmake() {
        if (count == 0) return;
        places.unmap();
        stacks.unmap();
        count = 0;
    }
};

thread_local Fibers kept;
pthread_key_t key;
pthread_once_t once = PTHREAD_ONCE_INIT;

void at_end(void *fibers) { static_cast<Fibers *>(fibers)->unmake(); }
void make_key() { pthread_key_create(&key, at_end); }

Fiber *fibers_for(unsigned long units) {
    pthread_once(&once, make_key);
    pthread_setspecific(key, &kept);
    if (kept.count < units) {
        kept.unmake();
        kept.make(units);
    }
    last = kept.all() + units - 1;
    for (unsigned long i = 0; i < units; i++) kept.all()[i].place = place(i, blockDim, units);
    return kept.all();
}

void all() {
    unsigned long units = size_t(blockDim.x) * blockDim.y * blockDim.z;
    unsigned long groups = size_t(gridDim.x) * gridDim.y * gridDim.z;
    Fiber *fibers = run->barriers ? fibers_for(units) : nullptr;
    armed = true;
    if (sigsetjmp(fault, 1) == 0) {
        for (unsigned long i = 0; i < groups; i++) {
            blockIdx = place(i, gridDim, groups);
            if (!workgroup(fibers, units)) break;
        }
    }
    armed = false;
    // Units that were left in the middle are given up.
    if (message[0] != 0) kept.unmake();
}

} // namespace

extern "C" void dream_barrier(int line) {
    leave(line);
}

extern "C" void dream_warp(int line) {
    meet(kept.all(), line);
}

extern "C" unsigned char *dream_shared(unsigned long *bytes) {
    *bytes = run->shared.bytes;
    return run->shared.data;
}

extern "C" unsigned long dream_group() {
    return count;
}

extern "C" void dream_stop(const char *text) {
    stop(text);
}

// Runs all workgroups; what was wrong, or null.
extern "C" const char *dream_run(const Run *given) {
    struct sigaction action = {};
    action.sa_sigaction = segfault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    run = given;
    message[0] = 0;
    gridDim = {run->grid[0], run->grid[1], run->grid[2]};
    blockDim = {run->block[0], run->block[1], run->block[2]};
    if (run->count > buffers_max) return "too many buffers";
    if (run->in_place) {
        for (size_t i = 0; i < run->count; i++) bound[i] = run->buffers[i].data;
        all();
        return message[0] != 0 ? message : nullptr;
    }
    Guarded guarded[buffers_max];
    for (size_t i = 0; i < run->count; i++) {
        guarded[i].map_bytes(run->buffers[i].bytes);
        memcpy(guarded[i].data(), run->buffers[i].data, run->buffers[i].bytes);
        bound[i] = guarded[i].data();
    }
    all();
    for (size_t i = 0; i < run->count; i++) {
        memcpy(run->buffers[i].data, guarded[i].data(), run->buffers[i].bytes);
        if (!guarded[i].whole()) say("memory before buffer %zu is written", i);
        guarded[i].unmap();
    }
    return message[0] != 0 ? message : nullptr;
}

#define SANITIZER(kind, text) \
    extern "C" void __ubsan_handle_##kind##_minimal() { stop(text); }
SANITIZER(out_of_bounds, "an index outside of its array")
SANITIZER(shift_out_of_bounds, "a shift by more than there are bits")
SANITIZER(divrem_overflow, "a division by 0")
SANITIZER(float_cast_overflow, "a number too large for the integer that it becomes")
SANITIZER(add_overflow, "a signed sum that overflows")
SANITIZER(sub_overflow, "a signed difference that overflows")
SANITIZER(mul_overflow, "a signed product that overflows")
SANITIZER(negate_overflow, "a negation that overflows")
