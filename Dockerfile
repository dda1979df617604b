# An image with ferrotune in it, such as `ferrotune azureml job --image` names: for a registry of yours,
#   az acr build --registry REGISTRY --image ferrotune:0.1.0 .      or      docker build --tag ferrotune .
# It was not built yet: releases of Rust and Debian are named, no more was tried.
# Models and data are not in it: they travel with a job, or come from the hub or a datastore.

FROM rust:1.95-slim-bookworm AS builder
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package ferrotune

# The same Debian, for the same C library.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=builder /source/target/release/ferrotune /usr/local/bin/ferrotune
# No entry point: Azure ML runs a job's command in a shell.
CMD ["ferrotune", "--help"]
