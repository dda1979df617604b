//! An MLflow model of the `transformers` flavour: `mlflow.pyfunc.load_model` and `mlflow models serve`
//! answer texts with label and score, without a line of our own code. Where a text may have several labels
//! they answer with all of them, the likeliest first: a column per rank, in which is a label with its
//! score.
//!
//! `MLmodel`, `model/` (the merged checkpoint), `components/tokenizer/`, `requirements.txt`,
//! `python_env.yaml`. Layout and keys are those of MLflow 3.17's `mlflow.transformers.save_model`; texts
//! are cut where training cut them (`python_function.config`).

use crate::Result;
use crate::classifier::Classifier;
use crate::huggingface::merged_checkpoint;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::Path;

/// Releases that this folder was tried with.
const REQUIREMENTS: &str = "mlflow>=2.10\ntransformers==5.24.0\ntorch==2.15.0\n";
const TRANSFORMERS: &str = "5.24.0";
const PYTHON_ENVIRONMENT: &str = "python: '3.11'\nbuild_dependencies:\n- pip\n- setuptools\n- wheel\ndependencies:\n- -r requirements.txt\n";

/// The key of what is not MLflow's own.
const METADATA: &str = "metadata";

/// Where a model is from, as MLflow asks.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// When it was made: `2026-11-26 01:20:59.594620`.
    pub utc_time_created: String,
    /// The run that it belongs to.
    pub run_id: Option<String>,
    /// Its place among the run's artifacts.
    pub artifact_path: Option<String>,
}

/// Writes the model's folder, and returns what its `MLmodel` says, `metadata` in it. `progress` is told how many tensors
/// of how many are written.
///
/// # Errors
/// The file system refuses, or the model's files changed.
pub fn mlflow_model(
    classifier: &Classifier,
    provenance: &Provenance,
    metadata: &Map<String, Value>,
    folder: &Path,
    progress: impl Fn(usize, usize),
) -> Result<Value> {
    let (model, tokenizer) = (folder.join("model"), folder.join("components/tokenizer"));
    durable::create_folder(&model)?;
    durable::create_folder(&tokenizer)?;
    merged_checkpoint(classifier, &model, progress)?;
    classifier.write_tokenizer(&tokenizer)?;
    durable::write(&folder.join("requirements.txt"), REQUIREMENTS.as_bytes())?;
    durable::write(&folder.join("python_env.yaml"), PYTHON_ENVIRONMENT.as_bytes())?;
    let mut described = description(classifier, provenance);
    if !metadata.is_empty() {
        described[METADATA] = metadata.clone().into();
    }
    let mut text = String::new();
    yaml(&described, 0, &mut text);
    durable::write(&folder.join("MLmodel"), text.as_bytes())?;
    Ok(described)
}

/// What `MLmodel` says.
fn description(classifier: &Classifier, provenance: &Provenance) -> Value {
    let text = |value: Value| Value::String(value.to_string());
    let mut call = json!({"truncation": true, "max_length": classifier.tokenizer.max_length});
    if classifier.is_multi_label() {
        // Every label with its score, not the first alone.
        call["top_k"] = Value::Null;
    }
    let mut described = json!({
        "flavors": {
            "python_function": {
                "config": call,
                "env": {"virtualenv": "python_env.yaml"},
                "loader_module": "mlflow.transformers",
                "python_version": "3.11",
            },
            "transformers": {
                "code": null,
                "components": ["tokenizer"],
                "instance_type": "TextClassificationPipeline",
                "model_binary": "model",
                "pipeline_model_type": classifier.merged.config.family.classifier,
                "source_model_name": classifier.pretrained_model,
                "task": "text-classification",
                "tokenizer_type": "PreTrainedTokenizerFast",
                "torch_dtype": "torch.float32",
                "transformers_version": TRANSFORMERS,
            },
        },
        "signature": {
            "inputs": text(json!([{"type": "string", "required": true}])),
            "outputs": text(outputs(classifier)),
            "params": null,
        },
        "utc_time_created": provenance.utc_time_created,
    });
    for (key, value) in
        [("run_id", &provenance.run_id), ("artifact_path", &provenance.artifact_path)]
    {
        if let Some(value) = value {
            described[key] = json!(value);
        }
    }
    described
}

/// The columns of the answers, as `mlflow.models.infer_signature` describes them.
fn outputs(classifier: &Classifier) -> Value {
    if classifier.is_multi_label() {
        let properties = json!({
            "label": {"type": "string", "required": true},
            "score": {"type": "double", "required": true},
        });
        let column = |rank: usize| json!({"type": "object", "properties": properties, "name": rank, "required": true});
        (0..classifier.labels()).map(column).collect()
    } else {
        json!([
            {"type": "string", "name": "label", "required": true},
            {"type": "double", "name": "score", "required": true},
        ])
    }
}

/// Objects as YAML's blocks, all else as JSON, which YAML contains.
fn yaml(value: &Value, depth: usize, text: &mut String) {
    let Value::Object(entries) = value else { return };
    for (key, value) in entries {
        let indent = "  ".repeat(depth);
        match value {
            // What others called their labels needs JSON's quotes.
            Value::Object(_) if key != METADATA => {
                let _ = writeln!(text, "{indent}{key}:");
                yaml(value, depth + 1, text);
            }
            other => {
                let _ = writeln!(text, "{indent}{key}: {other}");
            }
        }
    }
}
