//! Why a file that `torch.save` should have written cannot be read, or will not be.

/// What is wrong with a file of pickled weights.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum PytorchError {
    #[error("it is neither a zip archive nor a stream of pickles as torch.save writes them")]
    Format,

    #[error("its numbers are stored big-endian; only little-endian ones can be read")]
    BigEndian,

    #[error("its pickle ends early, at byte {at}")]
    Truncated { at: usize },

    #[error("byte {at} of its pickle is opcode {opcode:#04x}, which weights do not need")]
    Opcode { at: usize, opcode: u8 },

    #[error("byte {at} of its pickle names `{name}`; only tensors and their storages are built")]
    Global { at: usize, name: String },

    #[error("byte {at} of its pickle: {what} is {value}, the limit is {limit}")]
    Limit { at: usize, what: &'static str, value: u64, limit: u64 },

    #[error("byte {at} of its pickle: {problem}")]
    Pickle { at: usize, problem: &'static str },

    #[error("it holds no dictionary of tensors by name")]
    NoStateDict,

    #[error("its tensor `{name}` {problem}")]
    Tensor { name: String, problem: String },

    #[error("its storage `{key}` {problem}")]
    Storage { key: String, problem: String },

    #[error("its zip archive {problem}")]
    Archive { problem: String },

    #[error("its zip entry {name:?} {problem}")]
    Entry { name: String, problem: String },
}
