//! The instructions on tiles. The compiler makes no code of its own that touches tiles: they keep their
//! shapes and numbers from one function's call to the next. Sums are in 0 and 1 for the upper 16 rows, in 2
//! and 3 for the lower ones; the others hold what is multiplied.

use super::{HALF, UNITS, WIDTH};
use std::arch::asm;

/// What `ldtilecfg` reads: the palette, the bytes of each tile's rows, their number.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight tiles, all of the largest shape.
static SHAPES: Shapes = {
    let (mut bytes, mut rows, mut tile) = ([0; 16], [0; 16], 0);
    while tile < 8 {
        (bytes[tile], rows[tile]) = (64, 16);
        tile += 1;
    }
    Shapes { palette: 1, start_row: 0, reserved: [0; 14], bytes, rows }
};

/// # Safety
/// The processor has AMX; likewise below.
#[inline(always)]
pub(super) unsafe fn configure() {
    // SAFETY: `SHAPES` is what the instruction reads.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(readonly, nostack, preserves_flags));
    }
}

#[inline(always)]
pub(super) unsafe fn release() {
    // SAFETY: no tile is in use.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
}

/// Sums become 0.
#[inline(always)]
pub(super) unsafe fn clear() {
    // SAFETY: tiles are configured.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// Sums become those of 32 rows of 128 bytes.
#[inline(always)]
pub(super) unsafe fn load(sums: *const f32) {
    // SAFETY: the caller vouches for what is read, and that tiles are configured.
    unsafe {
        asm!(
            "tileloadd tmm0, [{upper} + 1*{width}]",
            "tileloadd tmm1, [{upper} + 1*{width} + 64]",
            "tileloadd tmm2, [{lower} + 1*{width}]",
            "tileloadd tmm3, [{lower} + 1*{width} + 64]",
            upper = in(reg) sums,
            lower = in(reg) sums.add(HALF * WIDTH),
            width = in(reg) WIDTH * size_of::<f32>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(readonly, nostack, preserves_flags),
        );
    }
}

/// Stores sums to 32 rows of 128 bytes.
#[inline(always)]
pub(super) unsafe fn store(sums: *mut f32) {
    // SAFETY: the caller vouches for what is written, and that tiles are configured.
    unsafe {
        asm!(
            "tilestored [{upper} + 1*{width}], tmm0",
            "tilestored [{upper} + 1*{width} + 64], tmm1",
            "tilestored [{lower} + 1*{width}], tmm2",
            "tilestored [{lower} + 1*{width} + 64], tmm3",
            upper = in(reg) sums,
            lower = in(reg) sums.add(HALF * WIDTH),
            width = in(reg) WIDTH * size_of::<f32>(),
            options(nostack, preserves_flags),
        );
    }
}

/// A loop over tiles along K with these instructions for each.
macro_rules! along_k {
    ($vectors:literal, $a:ident, $b:ident, $steps:ident, $($step:expr),*) => {
        asm!(
            "2:",
            $($step,)*
            "add {a}, 2048",
            "add {b}, {next}",
            "dec {steps}",
            "jnz 2b",
            a = inout(reg) $a => _,
            b = inout(reg) $b => _,
            steps = inout(reg) $steps => _,
            next = in(reg) 64 * UNITS * $vectors,
            row = in(reg) 64usize * $vectors,
            line = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack),
        )
    };
}

/// Defines a function that adds to the sums the products, by this instruction, of `steps ≥ 1` tiles along K:
/// `a` has 2 × `steps` of them, `b` 16 × `steps` rows of NV vectors. A is read once for a panel, so that it
/// goes past the L1 cache as far as it may (`t1`) and leaves B there.
#[rustfmt::skip]
macro_rules! accumulate {
    ($name:ident, $dot:literal) => {
        #[inline(always)]
        pub(super) unsafe fn $name<const NV: usize>(a: *const f32, b: *const f32, steps: usize) {
            // SAFETY: the caller vouches for what is read, and that tiles are configured.
            unsafe {
                match NV {
                    1 => along_k!(1, a, b, steps,
                        "tileloaddt1 tmm4, [{a} + 1*{line}]",
                        "tileloadd tmm6, [{b} + 1*{row}]",
                        "tileloaddt1 tmm5, [{a} + 1*{line} + 1024]",
                        concat!($dot, " tmm0, tmm4, tmm6"),
                        concat!($dot, " tmm2, tmm5, tmm6")
                    ),
                    _ => along_k!(2, a, b, steps,
                        "tileloaddt1 tmm4, [{a} + 1*{line}]",
                        "tileloadd tmm6, [{b} + 1*{row}]",
                        "tileloadd tmm7, [{b} + 1*{row} + 64]",
                        "tileloaddt1 tmm5, [{a} + 1*{line} + 1024]",
                        concat!($dot, " tmm0, tmm4, tmm6"),
                        concat!($dot, " tmm1, tmm4, tmm7"),
                        concat!($dot, " tmm2, tmm5, tmm6"),
                        concat!($dot, " tmm3, tmm5, tmm7")
                    ),
                }
            }
        }
    };
}

accumulate!(accumulate_bf16, "tdpbf16ps");
accumulate!(accumulate_integers, "tdpbssd");
