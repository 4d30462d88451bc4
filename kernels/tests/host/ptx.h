// The instructions of PTX that kernels use. Every unit of a warp gives its words, and takes what PTX says of what the others
// gave.
//
// Copies are done when they are waited for, and what they will write is no number before: who reads it without waiting, or
// copies over what others still read, gets what no test takes for a result.
#pragma once
#include "units.h"

extern "C" unsigned char *dream_shared(unsigned long *bytes);

namespace ptx {

const unsigned units_max = 1024, copies_max = 128, chunk = 16;

struct Chunk {
    unsigned words[chunk / 4];
};

// A copy on its way, and the group that it belongs to.
struct Copy {
    unsigned to, group;
    Chunk data;
};

struct Copies {
    Copy all[copies_max];
    unsigned count, group;
};

// What a unit gives to its warp: floats of words of rows and of features, or a row of a fragment.
struct Given {
    float a[4][4], b[2][4];
    Chunk row;
    unsigned at;
};

// A unit may give for the next instruction while others take for the last.
inline __thread Given given[2][units_max];
inline __thread bool turn[units_max];
inline __thread Copies copies[units_max];
// Workgroups run one after the other, so memory needs no order here. But a workgroup must not be counted before all its units
// have stored, and have fenced what they stored.
inline __thread bool fenced[units_max];

inline Given *give() {
    const unsigned unit = threadIdx.x;
    return given[turn[unit] = !turn[unit]];
}

// Where a chunk of shared memory is.
inline unsigned char *shared(unsigned at) {
    unsigned long bytes;
    unsigned char *from = dream_shared(&bytes);
    if (at % chunk != 0) dream_stop("a chunk of shared memory that is not aligned");
    if (at + chunk > bytes) dream_stop("a chunk outside of shared memory");
    return from + at;
}

inline float e4m3(unsigned code) {
    const unsigned magnitude = code & 0x7fu;
    if (magnitude == 0x7fu) return __builtin_nanf("");
    const float value = magnitude < 8 ? magnitude * 0x1p-9f : of_bits((magnitude << 20) + (120u << 23));
    return code & 0x80u ? -value : value;
}

struct E4M3 {
    static const unsigned in_word = 4;
    static float of(unsigned word, unsigned i) { return e4m3(word >> 8 * i & 0xff); }
};

struct BF16x2 {
    static const unsigned in_word = 2;
    static float of(unsigned word, unsigned i) { return of_bits(i ? word & 0xffff0000u : word << 16); }
};

struct F16x2 {
    static const unsigned in_word = 2;
    static float of(unsigned word, unsigned i) {
        const unsigned short bits = word >> 16 * i;
        F16 half;
        __builtin_memcpy(&half, &bits, sizeof half);
        return half;
    }
};

// Rows `group` and `group + 8`, words `quad` and `quad + 4` of each; feature `group`, the same words.
template <typename T>
void multiply(int line, float &d0, float &d1, float &d2, float &d3, unsigned a0, unsigned a1, unsigned a2, unsigned a3,
              unsigned b0, unsigned b1, float c0, float c1, float c2, float c3) {
    const unsigned unit = threadIdx.x, warp = unit / 32 * 32, group = unit % 32 / 4, quad = unit % 4;
    Given *all = give();
    const unsigned a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
    for (unsigned j = 0; j < T::in_word; j++) {
        for (int i = 0; i < 4; i++) all[unit].a[i][j] = T::of(a[i], j);
        for (int i = 0; i < 2; i++) all[unit].b[i][j] = T::of(b[i], j);
    }
    dream_warp(line);
    float sums[4] = {c0, c1, c2, c3};
    for (unsigned e = 0; e < 4; e++) {
        const unsigned below = e / 2, column = quad * 2 + e % 2;
        for (unsigned half = 0; half < 2; half++)
            for (unsigned of = 0; of < 4; of++) {
                const float *x = all[warp + group * 4 + of].a[half * 2 + below];
                const float *w = all[warp + column * 4 + of].b[half];
                for (unsigned j = 0; j < T::in_word; j++) sums[e] += x[j] * w[j];
            }
    }
    d0 = sums[0], d1 = sums[1], d2 = sums[2], d3 = sums[3];
}

template <bool turned>
void fragments(int line, unsigned &d0, unsigned &d1, unsigned &d2, unsigned &d3, unsigned at) {
    const unsigned unit = threadIdx.x, warp = unit / 32 * 32, group = unit % 32 / 4, quad = unit % 4;
    Given *all = give();
    __builtin_memcpy(&all[unit].row, shared(at), chunk);
    all[unit].at = at;
    dream_warp(line);
    unsigned taken = 0;
    for (unsigned i = unit / 8 * 8; i < unit / 8 * 8 + 8; i++) taken |= 1u << all[i].at / chunk % 8;
    if (taken != 0xff) dream_stop("rows of a fragment that lie in the same banks");
    unsigned *d[4] = {&d0, &d1, &d2, &d3};
    for (unsigned i = 0; i < 4; i++) {
        const Given *rows = all + warp + i * 8;
        if (!turned) {
            *d[i] = rows[group].row.words[quad];
            continue;
        }
        unsigned word = 0;
        for (unsigned j = 0; j < 2; j++) {
            const unsigned from = rows[quad * 2 + j].row.words[group / 2];
            word |= (from >> 16 * (group % 2) & 0xffff) << 16 * j;
        }
        *d[i] = word;
    }
}

} // namespace ptx

#include "wgmma.h"

#undef __syncthreads
#define __syncthreads() ptx::barrier(__LINE__)

namespace ptx {

inline void address(int, unsigned &at, const void *from) {
    unsigned long bytes;
    at = static_cast<const unsigned char *>(from) - dream_shared(&bytes);
}

inline void copy(int, unsigned to, const void *from, unsigned bytes) {
    Copies &own = copies[threadIdx.x];
    if (bytes > chunk) dream_stop("a copy of more than a chunk");
    if (bytes > 0 && reinterpret_cast<size_t>(from) % chunk != 0) dream_stop("a copy that is not aligned");
    if (own.count == copies_max) dream_stop("too many copies on their way");
    Copy &next = own.all[own.count++];
    next = {to, own.group, {}};
    __builtin_memcpy(&next.data, from, bytes);
    copying(to);
    __builtin_memset(shared(to), 0xff, chunk);
}

inline void commit(int) { copies[threadIdx.x].group++; }

inline void wait(unsigned but) {
    Copies &own = copies[threadIdx.x];
    unsigned left = 0;
    for (unsigned i = 0; i < own.count; i++) {
        const Copy copy = own.all[i];
        if (copy.group + but < own.group) {
            copied(copy.to);
            __builtin_memcpy(shared(copy.to), &copy.data, chunk);
        } else {
            own.all[left++] = copy;
        }
    }
    own.count = left;
}

template <unsigned but> void wait_but(int) { wait(but); }

inline void begin() {
    copies[threadIdx.x].count = copies[threadIdx.x].group = 0;
    fenced[threadIdx.x] = false;
    begin_group();
}

inline void end() {
    end_group();
    if (copies[threadIdx.x].count > 0) dream_stop("a unit ends while it copies");
}

inline void store(int, const void *to, unsigned x0, unsigned x1, unsigned x2, unsigned x3) {
    const unsigned x[4] = {x0, x1, x2, x3};
    fenced[threadIdx.x] = false;
    if (reinterpret_cast<size_t>(to) % sizeof x != 0) dream_stop("four numbers that are not aligned");
    __builtin_memcpy(const_cast<void *>(to), x, sizeof x);
}

inline void load(int, float &x0, float &x1, float &x2, float &x3, const void *from) {
    float x[4];
    if (reinterpret_cast<size_t>(from) % sizeof x != 0) dream_stop("four numbers that are not aligned");
    __builtin_memcpy(x, from, sizeof x);
    x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
}

inline void fence(int) { fenced[threadIdx.x] = true; }

inline void count(int, unsigned &before, const void *at) {
    for (unsigned unit = 0; unit < blockDim.x; unit++)
        if (!fenced[unit]) dream_stop("a workgroup is counted before all its units have fenced their sums");
    __builtin_memcpy(&before, at, sizeof before);
    const unsigned now = before + 1;
    __builtin_memcpy(const_cast<void *>(at), &now, sizeof now);
}

inline void reset(int, const void *at) {
    fenced[threadIdx.x] = false;
    __builtin_memset(const_cast<void *>(at), 0, sizeof(unsigned));
}

template <unsigned mask> void shuffle(int line, float &d, float a) {
    const unsigned unit = threadIdx.x;
    Given *all = give();
    all[unit].a[0][0] = a;
    dream_warp(line);
    d = all[unit ^ mask].a[0][0];
}

template <bool most> void extreme(int line, int &d, int a) {
    const unsigned unit = threadIdx.x;
    Given *all = give();
    all[unit].at = a;
    dream_warp(line);
    d = a;
    for (unsigned i = unit / 32 * 32; i < unit / 32 * 32 + 32; i++) {
        const int other = all[i].at;
        if (most ? other > d : other < d) d = other;
    }
}

template <typename T> unsigned bits_of_half(float x) {
    const T half(x);
    unsigned short bits;
    __builtin_memcpy(&bits, &half, sizeof bits);
    return bits;
}

template <typename T> void pack(int, unsigned &d, float high, float low) {
    d = bits_of_half<T>(high) << 16 | bits_of_half<T>(low);
}

inline void power_of_2(int, float &d, float x) { d = __builtin_exp2f(x); }

} // namespace ptx
