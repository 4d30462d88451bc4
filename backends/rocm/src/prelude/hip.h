// What kernels expect of HIP's headers, in terms of clang's builtins and of AMD's device library (ocml.bc).
//
// Read before the source of every kernel. Only names that CubeCL emits are here; functions that are not are errors when
// a kernel is compiled, never when it runs.
#pragma once

#define __device__ __attribute__((device))
#define __host__ __attribute__((host))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __forceinline__ inline __attribute__((always_inline))
#define DREAMC_INLINE static inline __attribute__((device, always_inline))

typedef __SIZE_TYPE__ size_t;
typedef unsigned int uint;
typedef _Float16 __half;
typedef __bf16 __hip_bfloat16;

// Positions: properties, since they are written without parentheses and cannot be variables.
#define DREAMC_POSITION(type, name, at)                                     \
  struct type {                                                             \
    __declspec(property(get = get_x)) uint x;                               \
    __declspec(property(get = get_y)) uint y;                               \
    __declspec(property(get = get_z)) uint z;                               \
    static __device__ __forceinline__ uint get_x() { return at(x); }        \
    static __device__ __forceinline__ uint get_y() { return at(y); }        \
    static __device__ __forceinline__ uint get_z() { return at(z); }        \
  };                                                                        \
  extern const __device__ __attribute__((weak)) type name;
#define DREAMC_THREAD(axis) __builtin_amdgcn_workitem_id_##axis()
#define DREAMC_BLOCK(axis) __builtin_amdgcn_workgroup_id_##axis()
#define DREAMC_BLOCK_UNITS(axis) __builtin_amdgcn_workgroup_size_##axis()
// The packet of a launch counts units; kernels are launched in whole workgroups only.
#define DREAMC_GRID(axis) (__builtin_amdgcn_grid_size_##axis() / __builtin_amdgcn_workgroup_size_##axis())
DREAMC_POSITION(dreamc_thread_idx, threadIdx, DREAMC_THREAD)
DREAMC_POSITION(dreamc_block_idx, blockIdx, DREAMC_BLOCK)
DREAMC_POSITION(dreamc_block_dim, blockDim, DREAMC_BLOCK_UNITS)
DREAMC_POSITION(dreamc_grid_dim, gridDim, DREAMC_GRID)

DREAMC_INLINE void __syncthreads() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
DREAMC_INLINE void __threadfence() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "agent"); }

// Planes: one lane reads another's registers, word by word.
#define warpSize int(__builtin_amdgcn_wavefrontsize())
DREAMC_INLINE int dreamc_lane() { return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0)); }
template <typename T> DREAMC_INLINE T dreamc_read_lane(T value, int lane) {
  constexpr unsigned words = (sizeof(T) + 3) / 4;
  int parts[words] = {};
  __builtin_memcpy(parts, &value, sizeof(T));
  for (unsigned i = 0; i < words; ++i) parts[i] = __builtin_amdgcn_ds_bpermute(lane << 2, parts[i]);
  __builtin_memcpy(&value, parts, sizeof(T));
  return value;
}
template <typename T> DREAMC_INLINE T __shfl(T value, int lane) {
  return dreamc_read_lane(value, lane & (warpSize - 1));
}
template <typename T> DREAMC_INLINE T __shfl_xor(T value, int mask) {
  int lane = dreamc_lane() ^ mask;
  return dreamc_read_lane(value, lane < warpSize ? lane : dreamc_lane());
}
template <typename T> DREAMC_INLINE T __shfl_up(T value, uint delta) {
  int lane = dreamc_lane() - int(delta);
  return dreamc_read_lane(value, lane >= 0 ? lane : dreamc_lane());
}
template <typename T> DREAMC_INLINE T __shfl_down(T value, uint delta) {
  int lane = dreamc_lane() + int(delta);
  return dreamc_read_lane(value, lane < warpSize ? lane : dreamc_lane());
}
DREAMC_INLINE unsigned long long __ballot(bool value) { return __builtin_amdgcn_ballot_w64(value); }
DREAMC_INLINE int __any(bool value) { return __ballot(value) != 0; }
DREAMC_INLINE int __all(bool value) { return __ballot(!value) == 0; }

// Atomics: relaxed and of the whole device, as CUDA's are.
#define DREAMC_ATOMIC(name, builtin)                                                 \
  template <typename T> DREAMC_INLINE T name(T *at, T value) {                       \
    return builtin(at, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);           \
  }
DREAMC_ATOMIC(atomicAdd, __hip_atomic_fetch_add)
DREAMC_ATOMIC(atomicMin, __hip_atomic_fetch_min)
DREAMC_ATOMIC(atomicMax, __hip_atomic_fetch_max)
DREAMC_ATOMIC(atomicAnd, __hip_atomic_fetch_and)
DREAMC_ATOMIC(atomicOr, __hip_atomic_fetch_or)
DREAMC_ATOMIC(atomicXor, __hip_atomic_fetch_xor)
DREAMC_ATOMIC(atomicExch, __hip_atomic_exchange)
template <typename T> DREAMC_INLINE T atomicCAS(T *at, T expected, T value) {
  __hip_atomic_compare_exchange_strong(at, &expected, value, __ATOMIC_RELAXED, __ATOMIC_RELAXED,
                                       __HIP_MEMORY_SCOPE_AGENT);
  return expected;
}

// Functions of one float, and those of 16 bit floats, whose names begin with h and which compute in 32 bits.
#define DREAMC_MATH(name, call)                                                      \
  DREAMC_INLINE float name(float x) { return call(x); }                              \
  DREAMC_INLINE __half h##name(__half x) { return __half(call(float(x))); }          \
  DREAMC_INLINE __hip_bfloat16 h##name(__hip_bfloat16 x) { return __hip_bfloat16(call(float(x))); }
#define DREAMC_OCML(name)                                                            \
  extern "C" __device__ __attribute__((const)) float __ocml_##name##_f32(float);     \
  DREAMC_MATH(name, __ocml_##name##_f32)
DREAMC_OCML(exp)
DREAMC_OCML(expm1)
DREAMC_OCML(log)
DREAMC_OCML(log1p)
DREAMC_OCML(sin)
DREAMC_OCML(cos)
DREAMC_OCML(tan)
DREAMC_OCML(asin)
DREAMC_OCML(acos)
DREAMC_OCML(atan)
DREAMC_OCML(sinh)
DREAMC_OCML(cosh)
DREAMC_OCML(tanh)
DREAMC_OCML(asinh)
DREAMC_OCML(acosh)
DREAMC_OCML(atanh)
DREAMC_OCML(erf)
DREAMC_OCML(rsqrt)
DREAMC_MATH(sqrt, __builtin_sqrtf)
DREAMC_MATH(floor, __builtin_floorf)
DREAMC_MATH(ceil, __builtin_ceilf)
DREAMC_MATH(trunc, __builtin_truncf)
DREAMC_MATH(rint, __builtin_rintf)
DREAMC_MATH(round, __builtin_roundf)
#define DREAMC_OCML2(name)                                                           \
  extern "C" __device__ __attribute__((const)) float __ocml_##name##_f32(float, float); \
  DREAMC_INLINE float name(float x, float y) { return __ocml_##name##_f32(x, y); }
DREAMC_OCML2(pow)
DREAMC_OCML2(atan2)
DREAMC_OCML2(hypot)
DREAMC_OCML2(fmod)

DREAMC_INLINE float fabs(float x) { return __builtin_fabsf(x); }
DREAMC_INLINE float abs(float x) { return __builtin_fabsf(x); }
DREAMC_INLINE int abs(int x) { return x < 0 ? -x : x; }
DREAMC_INLINE bool isnan(float x) { return __builtin_isnan(x); }
DREAMC_INLINE bool isinf(float x) { return __builtin_isinf(x); }
DREAMC_INLINE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
DREAMC_INLINE __half __hfma(__half x, __half y, __half z) { return __builtin_fmaf16(x, y, z); }
DREAMC_INLINE __hip_bfloat16 __hfma(__hip_bfloat16 x, __hip_bfloat16 y, __hip_bfloat16 z) {
  return __hip_bfloat16(fma(float(x), float(y), float(z)));
}

// Of a number and what is none, the number.
template <typename T> DREAMC_INLINE T min(T x, T y) { return y < x ? y : x; }
template <typename T> DREAMC_INLINE T max(T x, T y) { return x < y ? y : x; }
DREAMC_INLINE float min(float x, float y) { return __builtin_fminf(x, y); }
DREAMC_INLINE float max(float x, float y) { return __builtin_fmaxf(x, y); }
#define DREAMC_HALF(type)                                                            \
  DREAMC_INLINE type __hmin(type x, type y) { return type(min(float(x), float(y))); } \
  DREAMC_INLINE type __hmax(type x, type y) { return type(max(float(x), float(y))); } \
  DREAMC_INLINE type __habs(type x) { return type(fabs(float(x))); }                 \
  DREAMC_INLINE bool __hisnan(type x) { return isnan(float(x)); }                    \
  DREAMC_INLINE bool __hisinf(type x) { return isinf(float(x)); }
DREAMC_HALF(__half)
DREAMC_HALF(__hip_bfloat16)

// Bits.
DREAMC_INLINE int __popc(uint x) { return __builtin_popcount(x); }
DREAMC_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
DREAMC_INLINE uint __brev(uint x) { return __builtin_bitreverse32(x); }
DREAMC_INLINE unsigned long long __brevll(unsigned long long x) { return __builtin_bitreverse64(x); }
DREAMC_INLINE int __clz(uint x) { return x == 0 ? 32 : __builtin_clz(x); }
DREAMC_INLINE int __clzll(unsigned long long x) { return x == 0 ? 64 : __builtin_clzll(x); }
DREAMC_INLINE int __ffs(uint x) { return __builtin_ffs(int(x)); }
DREAMC_INLINE int __ffsll(unsigned long long x) { return __builtin_ffsll((long long)x); }
DREAMC_INLINE uint __umulhi(uint x, uint y) { return uint((unsigned long long)x * y >> 32); }
DREAMC_INLINE int __mulhi(int x, int y) { return int((long long)x * y >> 32); }
DREAMC_INLINE unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return (unsigned long long)((unsigned __int128)x * y >> 64);
}
