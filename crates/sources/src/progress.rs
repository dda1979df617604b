//! How far a download is, told to whoever draws it.

/// Watches downloads, one at a time: `start`, any number of `advance`, `finish`.
pub trait Progress {
    /// A download of `what` begins.
    fn start(&self, what: &str, total_bytes: Option<u64>);
    /// `bytes` more are here (those of an earlier, interrupted download count too).
    fn advance(&self, bytes: u64);
    /// The download is over, well or not.
    fn finish(&self);
}

/// Draws nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}
