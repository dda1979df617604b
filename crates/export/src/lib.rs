//! Fine-tuned classifiers in the formats of those who run them: a PEFT adapter, a Hugging Face
//! checkpoint with the adapters merged in, an MLflow model, an ONNX graph.
//!
//! What is written takes nothing of ours to run. Every function fills a folder that exists; the caller
//! sees to it that it appears whole or not at all.
#![forbid(unsafe_code)]

mod classifier;
mod error;
mod huggingface;
mod mlflow;
mod onnx;

pub use classifier::{Classifier, Tokenizer};
pub use error::Error;
pub use huggingface::{merged_checkpoint, peft_adapter};
pub use mlflow::{Provenance, mlflow_model};
pub use onnx::onnx_model;

/// The result of an export.
pub type Result<T> = std::result::Result<T, Error>;
