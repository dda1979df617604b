//! Fine-tuned weights on disk, in others' formats: a PEFT adapter folder
//! (`adapter_config.json`, `adapter_model.safetensors`), or, after full fine-tuning, a Hugging Face
//! checkpoint (`model.safetensors`).
//!
//! Of PEFT's settings only those that plain LoRA needs are written, since old releases refuse keys
//! they do not know; adapters that rely on others (DoRA, trained biases, rank patterns, …) are
//! refused by name.

use crate::Error;
use crate::backend::Backend;
use crate::classifier::SequenceClassifier;
use crate::lora::{LoraConfig, TargetModules};
use crate::tensor_file::{TensorFile, write_tensors};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

/// The settings file of an adapter folder.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The weights of an adapter folder.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's prefix before the base model's own names.
const PREFIX: &str = "base_model.model.";

/// The name under which an adapter folder holds this tensor of the model.
pub(crate) fn stored_name(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Writes the adapter and the head to `folder` so that `PeftModel.from_pretrained` loads them onto
/// `base`, the name or path of the pretrained model.
///
/// # Errors
/// The file system refuses.
pub fn write_adapter<B: Backend>(
    backend: &B,
    model: &SequenceClassifier<B>,
    lora: &LoraConfig,
    base: &str,
    folder: &Path,
) -> Result<(), Error> {
    let settings = json!({
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "r": lora.r,
        "lora_alpha": alpha(lora.alpha),
        "lora_dropout": lora.dropout,
        "target_modules": lora.target_modules.literal(model.config.family),
        "modules_to_save": model.config.family.head,
        "use_rslora": lora.use_rslora,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
    });
    let text = serde_json::to_string_pretty(&settings).expect("plain values");
    durable::write(&folder.join(ADAPTER_CONFIG), text.as_bytes())?;
    let mut tensors = model.state(backend);
    tensors.iter_mut().for_each(|tensor| tensor.name.insert_str(0, PREFIX));
    write_tensors(&folder.join(ADAPTER_WEIGHTS), tensors)
}

/// PEFT writes whole numbers as integers, and older readers expect them.
fn alpha(alpha: f64) -> Value {
    if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) }
}

/// The LoRA settings of an adapter folder.
///
/// # Errors
/// The file is missing or no JSON, or asks for something other than plain LoRA.
pub fn read_adapter_config(folder: &Path) -> Result<LoraConfig, Error> {
    let path = folder.join(ADAPTER_CONFIG);
    let text = std::fs::read_to_string(&path)
        .map_err(|source| Error::Read { path: path.clone(), source })?;
    let invalid =
        |reason: String| Error::Json { path: path.clone(), what: "adapter configuration", reason };
    let settings: Value =
        serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let refuse = |key, value: &Value| {
        Err(Error::Adapter { path: path.clone(), key, value: value.to_string() })
    };
    if settings["peft_type"] != "LORA" {
        return refuse("peft_type", &settings["peft_type"]);
    }
    if !(settings["bias"].is_null() || settings["bias"] == "none") {
        return refuse("bias", &settings["bias"]);
    }
    for key in [
        "use_dora",
        "lora_bias",
        "fan_in_fan_out",
        "use_qalora",
        "use_bdlora",
        "alpha_pattern",
        "rank_pattern",
        "layers_to_transform",
        "layer_replication",
        "exclude_modules",
        "target_parameters",
        "trainable_token_indices",
        "alora_invocation_tokens",
    ] {
        let value = &settings[key];
        let unset = value.is_null()
            || *value == Value::Bool(false)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !unset {
            return refuse(key, value);
        }
    }
    let number = |key: &str, default: f64| match &settings[key] {
        Value::Null => Ok(default),
        value => value.as_f64().ok_or_else(|| invalid(format!("{key} is {value}, not a number"))),
    };
    let mut targets = settings["target_modules"].clone();
    if let Some(names) = targets.as_array_mut() {
        // PEFT holds them as a set and writes them in any order.
        names.sort_by_key(Value::to_string);
    }
    let target_modules: TargetModules = serde_json::from_value(targets).map_err(|_| {
        invalid(format!("target_modules is {}, not a list of names", settings["target_modules"]))
    })?;
    let r = &settings["r"];
    let lora = LoraConfig {
        r: r.as_u64().ok_or_else(|| invalid(format!("r is {r}, not a whole number")))? as usize,
        alpha: number("lora_alpha", 8.0)?,
        dropout: number("lora_dropout", 0.0)?,
        target_modules,
        use_rslora: settings["use_rslora"] == true,
    };
    lora.check()?;
    Ok(lora)
}

/// Sets the model's adapters and head to those of an adapter folder. Head modules that the adapter
/// does not hold stay as they are in the base model.
///
/// # Errors
/// A tensor is missing (an adapter's, or one that the base model lacks too), of another shape or
/// not finite.
pub fn read_adapter<B: Backend>(
    backend: &B,
    model: &mut SequenceClassifier<B>,
    folder: &Path,
) -> Result<(), Error> {
    read_tensors(backend, model, &folder.join(ADAPTER_WEIGHTS), PREFIX, |name, new| {
        !name.contains(".lora_") && !new.iter().any(|n| n == name)
    })
}

/// Sets everything trained to the tensors of a checkpoint that full fine-tuning wrote.
///
/// # Errors
/// A tensor is missing, of another shape or not finite.
pub fn read_full<B: Backend>(
    backend: &B,
    model: &mut SequenceClassifier<B>,
    folder: &Path,
) -> Result<(), Error> {
    read_tensors(backend, model, &folder.join("model.safetensors"), "", |_, _| false)
}

/// `optional(name, newly_initialised)` says which tensors may be absent.
fn read_tensors<B: Backend>(
    backend: &B,
    model: &mut SequenceClassifier<B>,
    path: &Path,
    prefix: &str,
    optional: impl Fn(&str, &[String]) -> bool,
) -> Result<(), Error> {
    let file = TensorFile::open(path)?;
    let trained: Vec<String> =
        model.parameters.iter().map(|p| format!("{prefix}{}", p.name)).collect();
    if let Some(name) = file.names()?.into_iter().find(|name| !trained.contains(name)) {
        let problem = "belongs to no part of this model that is trained".to_owned();
        return Err(Error::Tensor { path: path.to_path_buf(), name, problem });
    }
    let new = model.newly_initialised.clone();
    let kept: HashMap<String, Vec<f32>> =
        model.state(backend).into_iter().map(|t| (t.name.clone(), t.data())).collect();
    model.restore(backend, |name, shape| {
        let stored = format!("{prefix}{name}");
        match file.tensor(&stored)? {
            Some((found, data)) if found == shape => Ok(data),
            Some((found, _)) => Err(Error::Shape {
                path: path.to_path_buf(),
                name: stored,
                found,
                expected: shape.to_vec(),
            }),
            None if optional(name, &new) => Ok(kept[name].clone()),
            None => Err(Error::MissingTensor {
                path: path.to_path_buf(),
                name: stored.clone(),
                looked: stored,
            }),
        }
    })
}
