// `mma.sync.m16n8k32` of codes of e4m3. Every unit of a warp gives its words and takes its sums, as PTX says who has which; what
// it needs of the others they give before a barrier.
#pragma once
#include "units.h"

// What the words of a unit stand for: of rows `group` and `group + 8`, and of feature `group`.
struct Given {
    float a[4][4], b[2][4];
};

// A unit may give the words of the next product while others read those of the last.
inline __thread Given dream_given[2][1024];
inline __thread bool dream_turn[1024];

inline float dream_e4m3(unsigned code) {
    const unsigned magnitude = code & 0x7fu;
    if (magnitude == 0x7fu) return __builtin_nanf("");
    const float value = magnitude < 8 ? magnitude * 0x1p-9f : of_bits((magnitude << 20) + (120u << 23));
    return code & 0x80u ? -value : value;
}

inline void dream_mma_e4m3(int line, float &d0, float &d1, float &d2, float &d3, unsigned a0, unsigned a1, unsigned a2,
                           unsigned a3, unsigned b0, unsigned b1, float c0, float c1, float c2, float c3) {
    const unsigned unit = threadIdx.x, warp = unit / 32 * 32, group = unit % 32 / 4, quad = unit % 4;
    Given *given = dream_given[dream_turn[unit] = !dream_turn[unit]];
    const unsigned a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
    for (int byte = 0; byte < 4; byte++) {
        for (int i = 0; i < 4; i++) given[unit].a[i][byte] = dream_e4m3(a[i] >> 8 * byte);
        for (int i = 0; i < 2; i++) given[unit].b[i][byte] = dream_e4m3(b[i] >> 8 * byte);
    }
    dream_barrier(line);
    float sums[4] = {c0, c1, c2, c3};
    for (unsigned e = 0; e < 4; e++) {
        const unsigned below = e / 2, column = quad * 2 + e % 2;
        // Columns 0 to 15 of the rows, four of each of four units, and then 16 to 31.
        for (unsigned half = 0; half < 2; half++)
            for (unsigned of = 0; of < 4; of++)
                for (unsigned byte = 0; byte < 4; byte++)
                    sums[e] += given[warp + group * 4 + of].a[half * 2 + below][byte] *
                               given[warp + column * 4 + of].b[half][byte];
    }
    d0 = sums[0], d1 = sums[1], d2 = sums[2], d3 = sums[3];
}
