// What CUDA and HIP have in common.
#pragma once
#include "units.h"

#define __global__
#define __device__
#define __shared__
#define __grid_constant__
#define __launch_bounds__(units)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __syncthreads() dream_barrier(__LINE__)
#define __syncwarp() dream_warp(__LINE__)

typedef F16 __half;
