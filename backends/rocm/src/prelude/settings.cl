// What AMD's device library is told about its target and about exactness.
//
// AMD ships these constants in files of their own, one per target; made here, they exist for targets that are younger
// than the installed files as well. OpenCL, since constants of HIP can be set from outside, so nothing is folded.
__constant const int __oclc_ISA_version = DREAMC_ISA;
__constant const char __oclc_finite_only_opt = 0;
__constant const char __oclc_unsafe_math_opt = 0;
__constant const char __oclc_daz_opt = 0;
__constant const char __oclc_correctly_rounded_sqrt32 = 1;
// The default of the processor: 64 units on CDNA, 32 on RDNA.
__constant const char __oclc_wavefrontsize64 = __AMDGCN_WAVEFRONT_SIZE == 64;
