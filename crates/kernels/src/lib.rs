//! CPU compute for fine-tuning transformers: GEMM over packed weights, attention over packed
//! sequences, LayerNorm, activations, dropout, cross-entropy, AdamW.
//!
//! Knows no model. Every operation takes the instruction set to use ([`Isa`]) and plain slices,
//! checks their lengths once, runs on the current [`Threads`], and gives the same bits for any
//! number of threads. Nearly all of the project's `unsafe` lives here.

mod activation;
mod attention;
mod binary_cross_entropy;
mod by_position;
mod cross_entropy;
mod disentangled;
mod dropout;
mod elementwise;
mod embedding;
mod gate;
mod gemm;
mod heads;
mod isa;
mod layer_norm;
mod lines;
mod lora;
mod optimizer;
mod pattern;
mod pooling;
mod quantized;
mod relative_bias;
mod rotary;
mod rows;
mod simd;
mod softmax;
mod threads;
mod unfold;

pub use activation::{Activation, activate, multiply};
pub use attention::{Attention, AttentionInputs, attention, attention_backward};
pub use binary_cross_entropy::binary_cross_entropy;
pub use cross_entropy::cross_entropy;
pub use disentangled::{
    PositionGradient, RelativePositions, disentangled_attention, disentangled_attention_backward,
};
pub use dropout::{Dropout, Stream, dropout};
pub use elementwise::{add, add_bias, scale, sum_of_squares};
pub use embedding::{gather_rows, scatter_add_rows, set_rows};
pub use gate::{gate, gate_backward};
pub use gemm::{
    Epilogue, LowRank, Matrix, PackedMatrix, Right, gemm, gemm_gelu, gemm_times, gemm_unpacked,
};
pub use heads::{join_heads, split_heads};
pub use isa::{ISA_VARIABLE, Isa, IsaError};
pub use layer_norm::{
    LayerNormInputs, layer_norm, layer_norm_backward, layer_norm_parameter_gradients,
};
pub use lines::Lines;
pub use lora::{lora_down, lora_down_backward, lora_partial_sums, lora_up_backward};
pub use optimizer::{AdamW, adamw};
pub use pattern::{Blocks, Pattern};
pub use pooling::{mean_rows, mean_rows_backward};
pub use quantized::{Int8Matrix, NF4_CODE, Nf4Absmax, Nf4Matrix, QuantizedMatrix, StoredType};
pub use relative_bias::{RelativeBias, RelativeBiasGradient};
pub use rotary::{Rotary, rotary_table, split_rotated, split_rotated_backward};
pub use rows::sum_rows;
pub use threads::Threads;
pub use unfold::{fold, unfold};

/// The precision of a product's inputs; sums are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Inputs as they are.
    #[default]
    F32,
    /// Inputs rounded to bf16, to nearest even.
    Bf16,
}
