#ifdef __CUDA_ARCH__
#define SHARED_LOAD(part, layout, order) \
    __device__ inline void load_matrix_sync(fragment<matrix_##part, 16, 16, 16, __nv_bfloat16, layout> &to, \
                                            __nv_bfloat16 *from, unsigned pitch) { \
        uint32_t *x = reinterpret_cast<uint32_t *>(&to); \
        asm volatile("wmma.load." #part ".sync.aligned." order ".m16n16k16.shared.bf16 {%0, %1, %2, %3}, [%4], %5;" \
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) \
                     : "r"(uint32_t(__cvta_generic_to_shared(from))), "r"(pitch) \
                     : "memory"); \
    }
namespace nvcuda {
namespace wmma {
SHARED_LOAD(a, row_major, "row")
SHARED_LOAD(b, col_major, "col")
}
}
#endif
