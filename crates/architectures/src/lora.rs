//! LoRA (Hu et al. 2021) as Hugging Face PEFT defines it: `y += α/r · dropout(x)·Aᵀ·Bᵀ`, A from a
//! Kaiming-uniform distribution with a = √5 (that is ±1/√in), B zero. With rsLoRA (Kalajdzievski
//! 2023) the factor is α/√r.

use crate::Error;
use crate::family::Family;
use serde::{Deserialize, Serialize};

/// Which layers get adapters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// A string that stands for layers of any family.
    Keyword(TargetKeyword),
    /// Layers whose name is, or ends in a dot and, one of these.
    Names(Vec<String>),
}

/// The keywords of `target_modules`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKeyword {
    /// Every linear layer but the head.
    AllLinear,
    /// The layers that give queries and values, whatever the family calls them.
    QueryValue,
}

impl TargetModules {
    /// The same in words that PEFT knows.
    pub(crate) fn literal(&self, family: &Family) -> TargetModules {
        match self {
            TargetModules::Keyword(TargetKeyword::QueryValue) => {
                TargetModules::Names(family.query_value.iter().map(ToString::to_string).collect())
            }
            other => other.clone(),
        }
    }
}

/// LoRA's settings, under PEFT's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the adapters.
    pub r: usize,
    /// Strength α: the adapter's product is scaled by alpha / r.
    pub alpha: f64,
    /// Dropout on the adapter's input.
    pub dropout: f64,
    /// Names of the layers that get adapters; or "query-value", those that give queries and values
    /// in the model's family; or "all-linear".
    pub target_modules: TargetModules,
    /// Scale by alpha / √r instead (rsLoRA).
    pub use_rslora: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            r: 8,
            alpha: 32.0,
            dropout: 0.1,
            target_modules: TargetModules::Keyword(TargetKeyword::QueryValue),
            use_rslora: false,
        }
    }
}

impl LoraConfig {
    /// Checks every setting against its range.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn check(&self) -> Result<(), Error> {
        let error = |key, value: String, limit| Err(Error::Lora { key, value, limit });
        if self.r == 0 || self.r > 4096 {
            return error("r", self.r.to_string(), "in 1..=4096");
        }
        // As they are computed with.
        let (alpha, dropout) = (self.alpha as f32, self.dropout as f32);
        if !(alpha.is_finite() && alpha > 0.0) {
            return error("alpha", self.alpha.to_string(), "a positive number");
        }
        if !(0.0..1.0).contains(&dropout) {
            return error("dropout", self.dropout.to_string(), "in 0..1");
        }
        match &self.target_modules {
            TargetModules::Names(names) if names.is_empty() => {
                let limit = "layer names, \"query-value\" or \"all-linear\"";
                error("target_modules", "[]".to_owned(), limit)
            }
            _ => Ok(()),
        }
    }

    /// The factor on the adapter's product.
    pub fn scale(&self) -> f32 {
        let r = self.r as f64;
        (self.alpha / if self.use_rslora { r.sqrt() } else { r }) as f32
    }

    /// Whether the layer `name` of this family gets an adapter.
    pub(crate) fn targets(&self, name: &str, family: &Family) -> bool {
        match &self.target_modules {
            TargetModules::Keyword(TargetKeyword::AllLinear) => true,
            TargetModules::Keyword(TargetKeyword::QueryValue) => {
                family.query_value.iter().any(|target| matches(name, target))
            }
            TargetModules::Names(targets) => targets.iter().any(|target| matches(name, target)),
        }
    }

    /// Refuses target names that match none of the layers.
    pub(crate) fn check_targets(&self, layers: &[String]) -> Result<(), Error> {
        let TargetModules::Names(targets) = &self.target_modules else { return Ok(()) };
        for target in targets {
            if !layers.iter().any(|name| matches(name, target)) {
                let mut known: Vec<&str> =
                    layers.iter().filter_map(|name| within_layer(name)).collect();
                known.sort_unstable();
                known.dedup();
                let known = known.join(", ");
                return Err(Error::Target { target: target.clone(), known });
            }
        }
        Ok(())
    }
}

/// What follows the layer's number in a name.
fn within_layer(name: &str) -> Option<&str> {
    let number = name.rsplit('.').find(|part| part.bytes().all(|b| b.is_ascii_digit()))?;
    Some(name.rsplit_once(&format!(".{number}."))?.1)
}

/// PEFT's rule: the name itself, or its end behind a dot.
fn matches(name: &str, target: &str) -> bool {
    name == target || name.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

/// How a pretrained model is fine-tuned.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Every weight is trained.
    Full,
    /// The encoder is frozen; adapters and the head are trained.
    Lora(LoraConfig),
}
