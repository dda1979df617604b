//! What can be wrong with a model folder or a method.

use crate::PytorchError;
use std::path::PathBuf;

/// A model that cannot be read, built or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A JSON file does not say what it should.
    #[error("{} is not a valid {what}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// The parser's answer.
        reason: String,
    },
    /// A configuration value beyond what can be built.
    #[error("{}: {key} is {value}, but must be {limit}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// The key in it.
        key: &'static str,
        /// What it says.
        value: String,
        /// What is allowed.
        limit: String,
    },
    /// An architecture we do not have.
    #[error(
        "{}: model_type `{found}` is not supported; supported are the encoders {supported}",
        path.display()
    )]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it names.
        found: String,
        /// What there is.
        supported: String,
    },
    /// No weights in the folder.
    #[error(
        "no weights in {}: looked for model.safetensors, model.safetensors.index.json, \
         pytorch_model.bin and pytorch_model.bin.index.json",
        .0.display()
    )]
    NoWeights(PathBuf),
    /// A file that is not what its format demands.
    #[error("{} is damaged or not a safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The parser's answer.
        reason: String,
    },
    /// A file that is not what `torch.save` writes for weights.
    #[error("{} is not read: {problem}", path.display())]
    Pytorch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: PytorchError,
    },
    /// A tensor that is not there.
    #[error("{} has no tensor `{name}` (looked for {looked})", path.display())]
    MissingTensor {
        /// Where it was looked for.
        path: PathBuf,
        /// Its canonical name.
        name: String,
        /// All names tried.
        looked: String,
    },
    /// A tensor of another shape.
    #[error("{}: tensor `{name}` has shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor that is there under two names.
    #[error("{} has `{name}` twice, as {}", path.display(), stored.join(" and "))]
    Twice {
        /// Where.
        path: PathBuf,
        /// Its name in what is written.
        name: String,
        /// Its names in what was read.
        stored: [String; 2],
    },
    /// A model that is to be quantised and is already.
    #[error("{} is quantised already: {how}; quantise the model it was made from", path.display())]
    QuantizedAlready {
        /// The model.
        path: PathBuf,
        /// What tells.
        how: String,
    },
    /// A tensor of numbers that cannot be used.
    #[error("{}: tensor `{name}` {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A LoRA setting out of range.
    #[error("lora.{key} is {value}, but must be {limit}")]
    Lora {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        limit: &'static str,
    },
    /// A LoRA target that no layer has.
    #[error(
        "lora.target_modules names `{target}`, which no layer of this model has; it has {known}"
    )]
    Target {
        /// The name.
        target: String,
        /// Names that would do.
        known: String,
    },
    /// An adapter of a kind we do not have.
    #[error("{}: {key} = {value} is not supported", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] durable::Error),
}
