// CUDA's bf16.
#pragma once
#include "kernel.h"

typedef BF16 __nv_bfloat16;
