//! The client of MLflow servers, and runs sent to them, against real servers of MLflow 3 and 2.

mod azure;
mod client;
#[path = "../../../stores/tests/azurite/emulator.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod emulator;
mod proxy;
mod real;
mod scene;
mod tracker;
