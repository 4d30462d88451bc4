// What hiprtc knows without an include.
#pragma once
#include "../kernel.h"
