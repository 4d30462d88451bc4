// What `units.cpp` runs. Also C.
#pragma once

typedef void Unit(void **buffers, void *info);

struct Buffer {
    unsigned char *data;
    size_t bytes;
};

struct Run {
    Unit *unit;
    struct Buffer *buffers;
    size_t count;
    // By value or by pointer, as the wrapper says.
    struct Buffer info;
    unsigned grid[3], block[3];
    // Dynamic shared memory, with what lies behind it.
    struct Buffer shared;
    // Units and workgroups run from the last to the first: some missing barriers show only so.
    bool backwards;
    // Without barriers units need no stacks of their own.
    bool barriers;
    // Buffers are used where they stand, and not in copies with guards around them: their sizes do not matter.
    bool in_place;
};

// What a library says about its kernel, in the symbol `dream_kernel`.
struct Kernel {
    const char *name;
    Unit *unit;
    unsigned char *shared;
    // Without what lies behind it; so in `dream_kernel` only.
    size_t shared_bytes;
    unsigned buffers, words, block[3];
    bool barriers;
};

// Bytes behind the shared memory of a workgroup that are still as they were afterwards.
#define SHARED_GUARD_BYTES 64
