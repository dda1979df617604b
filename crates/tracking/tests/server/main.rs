//! The client of MLflow servers, and runs sent to them, against real servers of MLflow 3 and 2.

mod client;
mod proxy;
mod real;
mod tracker;
