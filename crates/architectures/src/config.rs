//! `config.json` of a Hugging Face encoder: its family, and the family's own keys, checked before
//! anything is allocated. What the keys of a family are is in the family's file.

use crate::Error;
use crate::family::{self, Architecture, Family};
use kernels::Activation;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::path::Path;

/// What `config.json` says.
#[derive(Clone, Debug)]
pub struct Config {
    /// What `model_type` names.
    pub family: &'static Family,
    /// Shape and constants of the network.
    pub(crate) architecture: Architecture,
    /// Transformers' class of the model.
    pub architectures: Option<Vec<String>>,
    /// How the weights are quantised, where they are.
    pub quantization_config: Option<Value>,
}

/// The keys that mean the same in every family.
#[derive(Debug, Deserialize)]
struct Common {
    model_type: String,
    #[serde(default)]
    is_decoder: bool,
    architectures: Option<Vec<String>>,
    quantization_config: Option<Value>,
}

/// A value beyond what can be built.
#[derive(Debug)]
pub(crate) struct OutOfRange {
    key: &'static str,
    value: String,
    limit: String,
}

impl Config {
    /// Reads and checks `FOLDER/config.json`.
    ///
    /// # Errors
    /// The file is missing, no JSON, of no family there is, lacks a key, or holds a value beyond
    /// what can be built.
    pub fn read(folder: &Path) -> Result<Config, Error> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| Error::Read { path: path.clone(), source })?;
        Config::parse(&path, &text)
    }

    /// Checks the text of a `config.json`; `path` is where it is from.
    ///
    /// # Errors
    /// As for [`read`](Config::read), without the first.
    pub fn parse(path: &Path, text: &str) -> Result<Config, Error> {
        let invalid = |reason: String| Error::Json {
            path: path.to_path_buf(),
            what: "encoder configuration",
            reason,
        };
        let limit = |OutOfRange { key, value, limit }| Error::Limit {
            path: path.to_path_buf(),
            key,
            value,
            limit,
        };
        let keys: Value = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let Value::Object(members) = &keys else {
            return Err(invalid("it is no JSON object".to_owned()));
        };
        let Common { model_type, is_decoder, architectures, quantization_config } =
            read_keys(members, |keys| Common::deserialize(keys)).map_err(invalid)?;
        let Some((family, read)) = family::named(&model_type) else {
            return Err(Error::Architecture {
                path: path.to_path_buf(),
                found: model_type,
                supported: family::names(),
            });
        };
        if is_decoder {
            let limit = "false: only encoders can be fine-tuned here".to_owned();
            let (path, value) = (path.to_path_buf(), is_decoder.to_string());
            return Err(Error::Limit { path, key: "is_decoder", value, limit });
        }
        let architecture = read_keys(members, read).map_err(invalid)?;
        architecture.check().map_err(limit)?;
        Ok(Config { family, architecture, architectures, quantization_config })
    }

    /// Number of token ids.
    pub fn vocab_size(&self) -> usize {
        self.architecture.vocab_size()
    }

    /// The longest sequence that the network has positions for.
    pub fn max_length(&self) -> usize {
        self.architecture.max_length()
    }
}

/// Reads keys; where that fails for a value, names its key, which serde leaves out: it is the one
/// without which there is another error, or none.
fn read_keys<T>(
    keys: &Map<String, Value>,
    read: impl Fn(&Value) -> Result<T, serde_json::Error>,
) -> Result<T, String> {
    let answer = |keys: &Map<String, Value>| {
        read(&Value::Object(keys.clone())).map_err(|error| error.to_string())
    };
    answer(keys).map_err(|reason| {
        let is_to_blame = |key: &&String| {
            let mut others = keys.clone();
            others.remove(*key);
            answer(&others).err().as_ref() != Some(&reason)
        };
        match keys.keys().find(is_to_blame) {
            Some(key) if !reason.starts_with("missing field") => format!("{key}: {reason}"),
            _ => reason,
        }
    })
}

/// No published encoder comes near; beyond it a file lies.
pub(crate) const LARGEST: usize = 1 << 24;
/// As [`LARGEST`], for the width of a token's vector.
pub(crate) const WIDEST: usize = 1 << 16;
/// As [`LARGEST`], for the feed-forward's inner vector; products in integers take no longer ones.
pub(crate) const WIDEST_INNER: usize = kernels::Int8Matrix::MOST_COLUMNS;
/// As [`LARGEST`], for layers.
pub(crate) const DEEPEST: usize = 1 << 10;
/// As [`LARGEST`], for attention heads.
pub(crate) const MOST_HEADS: usize = 1 << 12;

/// Refuses sizes of 0 and those above the most there may be: (key, value, most).
pub(crate) fn check_sizes<const N: usize>(
    sizes: [(&'static str, usize, usize); N],
) -> Result<(), OutOfRange> {
    for (key, value, most) in sizes {
        if value == 0 || value > most {
            return out_of_range(key, value, &format!("in 1..={most}"));
        }
    }
    Ok(())
}

/// Refuses a width that heads do not cut into equal parts.
pub(crate) fn check_heads(
    (width_key, width): (&'static str, usize),
    (heads_key, heads): (&'static str, usize),
) -> Result<(), OutOfRange> {
    if width.is_multiple_of(heads) {
        return Ok(());
    }
    out_of_range(width_key, width, &format!("a multiple of {heads_key} ({heads})"))
}

/// Refuses what is no probability of dropout.
pub(crate) fn check_dropouts<const N: usize>(
    dropouts: [(&'static str, f32); N],
) -> Result<(), OutOfRange> {
    for (key, p) in dropouts {
        if !(0.0..1.0).contains(&p) {
            return out_of_range(key, p, "in 0..1");
        }
    }
    Ok(())
}

pub(crate) fn out_of_range(
    key: &'static str,
    value: impl ToString,
    limit: &str,
) -> Result<(), OutOfRange> {
    Err(OutOfRange { key, value: value.to_string(), limit: limit.to_owned() })
}

/// Transformers' names of activation functions.
const ACTIVATIONS: [(&str, Activation); 5] = [
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("tanh", Activation::Tanh),
];

/// Reads an activation function by its name.
pub(crate) fn activation<'de, D: Deserializer<'de>>(keys: D) -> Result<Activation, D::Error> {
    let name = String::deserialize(keys)?;
    let found = ACTIVATIONS.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, activation)| activation).ok_or_else(|| {
        let known = ACTIVATIONS.map(|(known, _)| known).join(", ");
        serde::de::Error::custom(format!(
            "the activation function `{name}` is not supported; supported are {known}"
        ))
    })
}

// Defaults that families share.

pub(crate) fn gelu() -> Activation {
    Activation::Gelu
}
pub(crate) fn gelu_new() -> Activation {
    Activation::GeluTanh
}
pub(crate) fn tenth() -> f32 {
    0.1
}
pub(crate) fn two() -> usize {
    2
}
pub(crate) fn tiny() -> f32 {
    1e-12
}
pub(crate) fn initializer_range() -> f32 {
    0.02
}

#[cfg(test)]
mod tests {
    use super::Config;
    use crate::family;
    use std::path::Path;

    fn refused(json: &str) -> String {
        Config::parse(Path::new("config.json"), json).expect_err(json).to_string()
    }

    #[test]
    fn other_models_are_refused_with_what_there_is() {
        for name in ["gpt2", "llama", "t5", ""] {
            let error = refused(&format!(r#"{{"model_type": "{name}"}}"#));
            assert!(error.contains(&format!("`{name}` is not supported")), "{error}");
            assert!(error.ends_with(&family::names()), "{error}");
        }
        assert!(refused("{}").contains("missing field `model_type`"));
        assert!(refused("[]").ends_with("it is no JSON object"));
        assert!(refused(r#"{"model_type": "bert", "is_decoder": true}"#).contains("is_decoder"));
    }

    #[test]
    fn values_that_cannot_be_built_are_named() {
        let bert = |key: &str, value: &str| {
            let mut keys = serde_json::json!({
                "model_type": "bert", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 2, "intermediate_size": 4, "max_position_embeddings": 5
            });
            keys[key] = serde_json::from_str(value).expect("a value");
            keys.to_string()
        };
        assert!(Config::parse(Path::new("config.json"), &bert("hidden_act", "\"relu\"")).is_ok());
        for (key, value, expected) in [
            ("hidden_act", "\"silu\"", "`silu` is not supported; supported are gelu, gelu_new"),
            ("hidden_size", "7", "hidden_size is 7, but must be a multiple of"),
            ("hidden_size", "0", "hidden_size is 0, but must be in 1..=65536"),
            ("num_hidden_layers", "1000000000", "num_hidden_layers is 1000000000"),
            ("hidden_dropout_prob", "1.5", "hidden_dropout_prob is 1.5"),
            ("position_embedding_type", "\"relative_key\"", "must be `absolute`"),
            ("hidden_size", "\"8\"", "hidden_size: invalid type: string"),
            ("architectures", "3", "architectures: invalid type: integer"),
            ("hidden_act", "null", "hidden_act: invalid type: null"),
        ] {
            let error = refused(&bert(key, value));
            assert!(error.contains(expected), "{error}");
        }
        // A key that a family reads through another's.
        let electra = bert("layer_norm_eps", "\"small\"").replace("\"bert\"", "\"electra\"");
        assert!(refused(&electra).contains("layer_norm_eps: invalid type: string"));
        let roberta = bert("pad_token_id", "4").replace("\"bert\"", "\"roberta\"");
        assert!(refused(&roberta).contains("pad_token_id is 4"));
    }
}
