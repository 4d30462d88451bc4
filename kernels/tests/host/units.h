// What the stub headers of all forms share: places of units, the barrier, maths of f32, 16-bit floats.
//
// Emitted sources define the names of <stdint.h> themselves, so no header of the system may be read here.
#pragma once

typedef __SIZE_TYPE__ size_t;

#include "run.h"

struct uint3 {
    unsigned x, y, z;
    unsigned operator[](unsigned axis) const { return axis == 0 ? x : axis == 1 ? y : z; }
};

// Where the unit that is running stands; set by the scheduler whenever it goes on.
extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;

// Waits until every unit of the workgroup waits in the same line of the source.
extern "C" void dream_barrier(int line);

// The same for the units of a warp.
extern "C" void dream_warp(int line);

// The number of the workgroup that runs.
extern "C" unsigned long dream_group();

// Ends the run: this is wrong.
extern "C" void dream_stop(const char *text);

// Becomes a pointer to whatever the entry wants.
struct Bound {
    void *at;
    template <typename T> operator T *() const { return static_cast<T *>(at); }
};

inline float exp(float x) { return __builtin_expf(x); }
inline float sqrt(float x) { return __builtin_sqrtf(x); }
inline float floor(float x) { return __builtin_floorf(x); }
inline float erf(float x) { return __builtin_erff(x); }
inline float abs(float x) { return __builtin_fabsf(x); }
inline float fabs(float x) { return __builtin_fabsf(x); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// A comparison with what is no number is false: the other operand comes out, as on the devices.
inline float min(float a, float b) { return __builtin_fminf(a, b); }
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
template <typename T> inline T min(T a, T b) { return b < a ? b : a; }
template <typename T> inline T max(T a, T b) { return a < b ? b : a; }
template <typename T> inline T clamp(T x, T low, T high) { return min(max(x, low), high); }

inline unsigned bits_of(float x) {
    unsigned bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}

inline float of_bits(unsigned bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

// f16. The compiler rounds to nearest, ties to even.
struct F16 {
    _Float16 value;
    F16() = default;
    F16(float x) : value(static_cast<_Float16>(x)) {}
    operator float() const { return static_cast<float>(value); }
};

// bf16, likewise; what is no number stays so.
struct BF16 {
    unsigned short upper;
    BF16() = default;
    BF16(float x) {
        unsigned bits = bits_of(x);
        bits = (bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u);
        upper = static_cast<unsigned short>(bits >> 16);
    }
    operator float() const { return of_bits(static_cast<unsigned>(upper) << 16); }
};
