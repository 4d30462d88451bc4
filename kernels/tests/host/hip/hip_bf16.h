// HIP's bf16.
#pragma once
#include "../kernel.h"

typedef BF16 __hip_bfloat16;
