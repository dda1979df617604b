//! Which instruction set the kernels use: found once at start, or forced by `FERROTUNE_ISA`.

use std::fmt;
use std::str::FromStr;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::sync::LazyLock;

/// An instruction set for which every kernel has a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust; what the compiler's baseline gives (SSE2 on x86-64, NEON on AArch64).
    Scalar,
    /// NEON, 4 lanes: every AArch64.
    Neon,
    /// AVX2 and FMA, 8 lanes.
    Avx2,
    /// AVX-512 F, BW, DQ, VL: 16 lanes.
    Avx512,
    /// AVX-512 with native dot products of 8-bit integers.
    Avx512Vnni,
    /// AVX-512 with native dot products of 8-bit integers and of bf16 numbers.
    Avx512Bf16,
    /// All that, and matrix tiles of both (Intel's AMX).
    Amx,
}

/// An instruction set that cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsaError {
    /// The name is none of ours.
    #[error(
        "FERROTUNE_ISA is `{0}`, but must be scalar, neon, avx2, avx512, avx512vnni, \
             avx512bf16 or amx"
    )]
    Unknown(String),
    /// This processor lacks it, or the system keeps it back.
    #[error("FERROTUNE_ISA is `{0}`, but this machine offers no more than {1}")]
    Missing(Isa, Isa),
}

/// The environment variable that forces an instruction set.
pub const ISA_VARIABLE: &str = "FERROTUNE_ISA";

impl Isa {
    /// All of them.
    pub const ALL: [Isa; 7] = [
        Isa::Scalar,
        Isa::Neon,
        Isa::Avx2,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Avx512Bf16,
        Isa::Amx,
    ];

    /// The fastest instruction set of this processor, or the one that [`ISA_VARIABLE`] names.
    ///
    /// # Errors
    /// The variable names an unknown or a missing instruction set.
    pub fn detect() -> Result<Isa, IsaError> {
        let available = || Isa::ALL.into_iter().filter(|isa| isa.is_available());
        let slow = |isa: &Isa| *isa == Isa::Avx512Bf16 && is_intel();
        let fastest = available().rfind(|isa| !slow(isa)).unwrap_or(Isa::Scalar);
        match std::env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => {
                let forced: Isa = name.parse()?;
                if forced.is_available() {
                    Ok(forced)
                } else {
                    Err(IsaError::Missing(forced, available().next_back().unwrap_or(fastest)))
                }
            }
            _ => Ok(fastest),
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = || {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            };
            match self {
                Isa::Scalar => true,
                Isa::Neon => false,
                Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
                Isa::Avx512 => avx512(),
                Isa::Avx512Vnni => avx512() && is_x86_feature_detected!("avx512vnni"),
                // Every processor that has bf16 products has those of integers.
                Isa::Avx512Bf16 => {
                    Isa::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512bf16")
                }
                Isa::Amx => Isa::Avx512Bf16.is_available() && has_amx(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Scalar || self == Isa::Neon && cfg!(target_arch = "aarch64")
        }
    }

    /// Whether products of bf16 numbers run natively; elsewhere they are rounded and run in f32.
    pub fn has_bf16(self) -> bool {
        self.has_tiles() || self == Isa::Avx512Bf16
    }

    /// Whether those run on matrix tiles.
    pub(crate) fn has_tiles(self) -> bool {
        self == Isa::Amx
    }

    /// Whether dot products of 8-bit integers run natively.
    pub(crate) fn has_vnni(self) -> bool {
        matches!(self, Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx)
    }

    /// Numbers per vector.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Isa::Scalar | Isa::Neon => 4,
            Isa::Avx2 => 8,
            Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => 16,
        }
    }
}

/// Whether this is a processor of Intel's. In vector registers those multiply bf16 numbers at half the speed
/// of f32: 88 and 177 GFLOP/s a core on Emerald Rapids, the one measured.
fn is_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the processor has tiles of bf16 and 8-bit integers, and the system lets this process use them:
/// Linux keeps them back until they are asked for (its documentation, "Using XSTATE features in user
/// space applications").
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_amx() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        let features = __cpuid_count(7, 0).edx;
        [AMX_BF16, AMX_TILE, AMX_INT8].iter().all(|feature| features & feature != 0)
            // SAFETY: a request that takes numbers alone and changes nothing where it is refused.
            && unsafe {
                libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0
            }
    });
    *AVAILABLE
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn has_amx() -> bool {
    false
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        })
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Isa, IsaError> {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.to_string() == name)
            .ok_or_else(|| IsaError::Unknown(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert_eq!("sse9".parse::<Isa>(), Err(IsaError::Unknown("sse9".into())));
    }
}
