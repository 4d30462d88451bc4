// CUDA's f16: `kernel.h` has it.
#pragma once
#include "kernel.h"
