//! The CPU device: SIMD kernels chosen once at load, threads with the same bits for any count.
