// What NVRTC knows without an include.
#pragma once
#include "kernel.h"
