//! The data sets of a run in MLflow's file store:
//!
//! ```text
//! <experiment>/datasets/<id>/meta.yaml          the data set, shared by the runs that read it
//! <experiment>/<run>/inputs/<id>/meta.yaml      that this run reads it, and what for
//! ```
//!
//! Ids are 32 hexadecimal digits that stand for the content; readers take any. JSON is YAML too.

use std::path::Path;

use serde_json::json;

use crate::{Dataset, Result};

/// Writes what one run, in `folder`, reads.
pub(crate) fn write(folder: &Path, run_id: &str, dataset: &Dataset) -> Result<()> {
    let Dataset { name, digest, source_type, source, schema, profile, context } = dataset;
    let id = id(&[name, digest, source]);
    let experiment = folder.parent().unwrap_or(folder);
    let described = json!({
        "name": name, "digest": digest, "source_type": source_type, "source": source,
        "schema": schema, "profile": profile,
    });
    let read = json!({
        "source_type": "DATASET", "source_id": id,
        "destination_type": "RUN", "destination_id": run_id,
        "tags": { "mlflow.data.context": context },
    });
    let input = self::id(&[&id, context]);
    for (folder, meta) in [
        (experiment.join("datasets").join(&id), described),
        (folder.join("inputs").join(input), read),
    ] {
        durable::create_folder(&folder)?;
        durable::write(&folder.join("meta.yaml"), meta.to_string().as_bytes())?;
    }
    Ok(())
}

/// FNV-1a of 128 bits.
fn id(texts: &[&str]) -> String {
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    for text in texts {
        for byte in text.bytes().chain([0]) {
            hash =
                (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    format!("{hash:032x}")
}
