//! Labelled text, from files to packed batches: [`load`] reads CSV, JSONL and Parquet into
//! [`Example`]s under a [`LabelScheme`], [`Tokenizer`] turns texts into ids, [`epoch_order`],
//! [`micro_batches`] and [`pack`] lay them end to end for the engine, and [`DataReport`] says what
//! a user should know about the data before training on it.
//!
//! Knows nothing of networks, of the hub or of the network protocol: it is handed file paths. Every
//! refusal names the file and the row. Texts are kept byte for byte.
#![forbid(unsafe_code)]

mod batch;
mod config;
mod csv;
mod dataset;
mod error;
mod jsonl;
mod labels;
mod order;
mod parquet;
mod report;
mod split;
mod table;
mod tokenizer;

pub use batch::{PackedBatch, by_length, micro_batches, pack};
pub use config::{DataConfig, Task};
pub use dataset::{Dataset, Example, SplitFiles, load, load_split, read_texts};
pub use error::{Error, Result};
pub use labels::LabelScheme;
pub use order::epoch_order;
pub use report::{ClassCount, DataReport, SharedTexts, SplitReport, TokenLengths};
pub use table::check_format;
pub use tokenizer::{Encoded, TOKENIZER_FILES, Tokenizer};
