//! The client of MLflow servers against real servers of MLflow 3 and 2.

mod client;
mod real;
