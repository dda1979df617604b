//! The public API against servers on real sockets.

mod hub;
mod server;
mod wheel;
