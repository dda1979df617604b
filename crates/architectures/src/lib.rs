//! Encoder networks for fine-tuning, forward and backward by hand: the [`Backend`] seam, layers,
//! LoRA, heads, AdamW, Hugging Face checkpoints and PEFT adapters.
//!
//! A family is a file that composes shared layers under Hugging Face's names (`bert.rs`,
//! `roberta.rs`). Batches are packed: sequences laid end to end, no padding, no masks.
#![deny(unsafe_code)]

mod backend;
mod bert;
mod builder;
mod checkpoint;
mod classifier;
mod config;
mod cpu;
mod embeddings;
mod error;
mod head;
mod layer;
mod linear;
mod lora;
mod memory;
mod norm;
mod optimizer;
mod parameters;
mod pass;
pub mod peft;
mod pool;
mod pytorch;
mod quantized;
mod random;
mod roberta;
mod tensor_file;

pub use backend::{AttentionSaved, AttentionShape, Backend, Norm, Product, Shape};
pub use checkpoint::{Checkpoint, StoredWeight};
pub use classifier::{Family, Saved, SequenceClassifier};
pub use config::Config;
pub use cpu::{Cpu, CpuMatrix, CpuWeight};
pub use error::Error;
pub use kernels::{ISA_VARIABLE, Isa, IsaError, Precision};
pub use lora::{AllLinear, LoraConfig, Method, TargetModules};
pub use memory::step_bytes;
pub use optimizer::{AdamWSettings, Optimizer};
pub use parameters::{Parameter, Parameters};
pub use pass::{Batch, Pass};
pub use pytorch::PytorchError;
pub use quantized::Quantization;
pub use tensor_file::{NamedTensor, ShapedData, TensorFile, write_tensors};
