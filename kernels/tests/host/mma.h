// CUDA's matrix fragments. Every unit of a warp has all of a fragment, where on a device each has a share: so each loads and
// multiplies for itself. A store is shared out, as on a device: without a barrier behind it, what the others have stored
// is not there.
#pragma once
#include "kernel.h"

namespace nvcuda {
namespace wmma {

struct row_major;
struct col_major;
struct matrix_a;
struct matrix_b;
struct accumulator;
enum layout_t { mem_row_major, mem_col_major };

// Those that the devices have for types of 16 bits with sums in f32.
template <typename Use, int m, int n, int k, typename T, typename Layout = void> struct fragment;

template <typename T, typename Layout> struct fragment<matrix_a, 16, 16, 16, T, Layout> {
    T x[16][16];
};
template <typename T, typename Layout> struct fragment<matrix_b, 16, 16, 16, T, Layout> {
    T x[16][16];
};
template <> struct fragment<accumulator, 16, 16, 16, float> {
    float x[16][16];
};

template <typename T> void check(const T *at, unsigned pitch) {
    if (reinterpret_cast<size_t>(at) % 32 != 0) dream_stop("a fragment that is not aligned to 32 bytes");
    if (pitch * sizeof(T) % 16 != 0) dream_stop("rows of a fragment that are not aligned to 16 bytes");
}

inline void fill_fragment(fragment<accumulator, 16, 16, 16, float> &to, float value) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) to.x[i][j] = value;
}

template <typename Use, typename T>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, row_major> &to, const T *from, unsigned pitch) {
    check(from, pitch);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) to.x[i][j] = from[i * pitch + j];
}

template <typename Use, typename T>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, col_major> &to, const T *from, unsigned pitch) {
    check(from, pitch);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) to.x[i][j] = from[j * pitch + i];
}

template <typename T, typename A, typename B>
void mma_sync(fragment<accumulator, 16, 16, 16, float> &d, const fragment<matrix_a, 16, 16, 16, T, A> &a,
              const fragment<matrix_b, 16, 16, 16, T, B> &b, const fragment<accumulator, 16, 16, 16, float> &c) {
    float y[16][16], x[16][16];
    __builtin_memcpy(y, c.x, sizeof y);
    for (int l = 0; l < 16; l++)
        for (int j = 0; j < 16; j++) x[l][j] = b.x[l][j];
    for (int i = 0; i < 16; i++)
        for (int l = 0; l < 16; l++) {
            const float by = a.x[i][l];
            for (int j = 0; j < 16; j++) y[i][j] += by * x[l][j];
        }
    __builtin_memcpy(d.x, y, sizeof y);
}

inline void store_matrix_sync(float *to, const fragment<accumulator, 16, 16, 16, float> &from, unsigned pitch,
                              layout_t layout) {
    check(to, pitch);
    // Eight elements, in each quarter two neighbours.
    const int lane = threadIdx.x % 32;
    for (int e = 0; e < 8; e++) {
        const int i = lane / 4 + e / 4 * 8, j = lane % 4 * 2 + e / 2 % 2 * 8 + e % 2;
        to[layout == mem_row_major ? i * pitch + j : j * pitch + i] = from.x[i][j];
    }
}

} // namespace wmma
} // namespace nvcuda
