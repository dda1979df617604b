//! Encoder networks for fine-tuning, forward and backward by hand: the [`Backend`] seam, layers,
//! LoRA, heads, AdamW, Hugging Face checkpoints and PEFT adapters.
//!
//! A family is a file that composes shared layers under Hugging Face's names (`bert.rs`,
//! `roberta.rs`, …), registered in `family.rs`. Batches are packed: sequences laid end to end, no padding, no masks.
#![deny(unsafe_code)]

mod albert;
mod attention;
mod backend;
mod bert;
mod big_bird;
mod builder;
mod checkpoint;
mod classifier;
mod config;
mod convolved;
mod cpu;
mod deberta;
mod deberta_v2;
mod disentangled;
mod distilbert;
mod electra;
mod embeddings;
mod encoder;
mod encoder_layer;
mod error;
mod family;
mod head;
mod layer;
mod linear;
mod longformer;
mod lora;
mod memory;
mod merged;
mod modernbert;
mod mpnet;
mod norm;
mod optimizer;
mod parameters;
mod pass;
pub mod peft;
mod pool;
mod position;
mod pre_norm;
mod pytorch;
mod quantize;
mod quantized;
mod random;
mod random_blocks;
mod relative_positions;
mod roberta;
mod rotary;
mod sentence;
mod tensor_file;
mod windowed;

pub use backend::{
    After, AttentionSaved, AttentionShape, Backend, Norm, PackedProduct, Pattern, Product,
    RelativeBias, RelativePositions, Rotary, Shape,
};
pub use checkpoint::{Checkpoint, StoredWeight};
pub use classifier::{Saved, SequenceClassifier};
pub use config::Config;
pub use cpu::{Cpu, CpuMatrix, CpuWeight};
pub use error::Error;
pub use family::Family;
pub use kernels::{Activation, AdamW, Dropout, ISA_VARIABLE, Isa, IsaError, Precision, Threads};
pub use lora::{LoraConfig, Method, TargetKeyword, TargetModules};
pub use memory::{parameter_counts, step_bytes};
pub use merged::Merged;
pub use optimizer::{AdamWSettings, Optimizer};
pub use parameters::{Parameter, Parameters};
pub use pass::{Batch, Pass};
pub use pytorch::PytorchError;
pub use quantize::{Quantized, Quantizer};
pub use quantized::{Quantization, quantization_config};
pub use sentence::SentenceEncoder;
pub use tensor_file::{NamedTensor, ShapedData, TensorFile, write_tensors};
