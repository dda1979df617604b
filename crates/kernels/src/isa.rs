//! Which instruction set the kernels use: found once at start, or forced by `FERROTUNE_ISA`.

use std::fmt;
use std::str::FromStr;

/// An instruction set for which every kernel has a variant, slowest first.
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
}

/// An instruction set that cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsaError {
    /// The name is none of ours.
    #[error(
        "FERROTUNE_ISA is `{0}`, but must be scalar, neon, avx2, avx512, avx512vnni or \
             avx512bf16"
    )]
    Unknown(String),
    /// This processor lacks it.
    #[error("FERROTUNE_ISA is `{0}`, but this processor has only {1}")]
    Missing(Isa, Isa),
}

/// The environment variable that forces an instruction set.
pub const ISA_VARIABLE: &str = "FERROTUNE_ISA";

impl Isa {
    /// All of them, slowest first.
    pub const ALL: [Isa; 6] =
        [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Avx512Vnni, Isa::Avx512Bf16];

    /// The best instruction set of this processor, or the one that [`ISA_VARIABLE`] names.
    ///
    /// # Errors
    /// The variable names an unknown or a missing instruction set.
    pub fn detect() -> Result<Isa, IsaError> {
        let best = Isa::ALL.into_iter().rfind(|isa| isa.is_available()).unwrap_or(Isa::Scalar);
        match std::env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => {
                let forced: Isa = name.parse()?;
                if forced.is_available() {
                    Ok(forced)
                } else {
                    Err(IsaError::Missing(forced, best))
                }
            }
            _ => Ok(best),
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
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Scalar || self == Isa::Neon && cfg!(target_arch = "aarch64")
        }
    }

    /// Whether products of bf16 numbers run natively; elsewhere they are rounded and run in f32.
    pub fn has_bf16(self) -> bool {
        self == Isa::Avx512Bf16
    }

    /// Numbers per vector.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Isa::Scalar | Isa::Neon => 4,
            Isa::Avx2 => 8,
            Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 => 16,
        }
    }
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
