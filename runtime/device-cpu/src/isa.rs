//! Instruction sets: which one this host has, and functions compiled once for each.

/// The instruction set that the kernels use, chosen once when the device is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F, BW, DQ, VL, VNNI and BF16.
    Avx512Bf16,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512Vnni,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// AVX2, FMA and AVX-VNNI.
    AvxVnni,
    /// AVX2 and FMA.
    Avx2,
    /// NEON of AArch64 and its products of matrices of bytes and of bf16, dot products of bytes among them.
    NeonMatrix,
    /// NEON of AArch64 and its dot products of bytes.
    NeonDot,
    /// NEON of AArch64.
    Neon,
    /// No assumption.
    Plain,
}

impl Isa {
    /// Every instruction set, best first.
    pub const ALL: [Isa; 9] = [
        Isa::Avx512Bf16,
        Isa::Avx512Vnni,
        Isa::Avx512,
        Isa::AvxVnni,
        Isa::Avx2,
        Isa::NeonMatrix,
        Isa::NeonDot,
        Isa::Neon,
        Isa::Plain,
    ];

    /// The best that this host has.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Plain)
    }

    /// Whether it has the registers of AVX-512.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn is_avx512(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512)
    }

    /// Whether this host has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 | Isa::AvxVnni | Isa::Avx2 => false,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonMatrix => {
                Isa::NeonDot.is_available()
                    && std::arch::is_aarch64_feature_detected!("i8mm")
                    && std::arch::is_aarch64_feature_detected!("bf16")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(not(target_arch = "aarch64"))]
            Isa::NeonMatrix | Isa::NeonDot => false,
            // NEON is part of every AArch64 target of Rust.
            Isa::Neon => cfg!(target_arch = "aarch64"),
            Isa::Plain => true,
        }
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Avx512 => "avx512",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx2 => "avx2",
            Isa::NeonMatrix => "neonmatrix",
            Isa::NeonDot => "neondot",
            Isa::Neon => "neon",
            Isa::Plain => "plain",
        })
    }
}

/// Defines a function whose body is compiled once per instruction set, so that LLVM vectorises it
/// for each; the first argument at the call chooses. The device refuses sets the host lacks.
macro_rules! per_isa {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "the instruction set comes on top")]
        pub(crate) fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            match isa {
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512Bf16
                | $crate::isa::Isa::Avx512Vnni
                | $crate::isa::Isa::Avx512 => {
                    // SAFETY: the device was made with this set only after `is_available`.
                    unsafe { avx512($($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::isa::Isa::AvxVnni | $crate::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(not(target_arch = "x86_64"))]
                $crate::isa::Isa::Avx512Bf16
                | $crate::isa::Isa::Avx512Vnni
                | $crate::isa::Isa::Avx512
                | $crate::isa::Isa::AvxVnni
                | $crate::isa::Isa::Avx2 => body($($arg),*),
                $crate::isa::Isa::NeonMatrix
                | $crate::isa::Isa::NeonDot
                | $crate::isa::Isa::Neon
                | $crate::isa::Isa::Plain => body($($arg),*),
            }
        }
    };
}
pub(crate) use per_isa;
