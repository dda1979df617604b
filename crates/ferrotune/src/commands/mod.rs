//! One file per subcommand.

pub mod predict;
pub mod test;
pub mod train;
