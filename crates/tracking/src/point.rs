//! A metric point as JSON: the same in `metrics.jsonl` as in MLflow's REST API, so that what was
//! recorded is what is sent. JSON has no NaN and no infinities; both spell them as strings.
//!
//! Whole numbers are read as numbers or as strings, since servers write 64-bit numbers either way.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Finite(f64),
    Other(Special),
}

#[derive(Serialize, Deserialize)]
enum Special {
    #[serde(rename = "NaN")]
    Nan,
    Infinity,
    #[serde(rename = "-Infinity")]
    NegativeInfinity,
}

/// `#[serde(with = "value")]` for a metric's value.
pub(crate) mod value {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        match *value {
            v if v.is_nan() => Value::Other(Special::Nan),
            f64::INFINITY => Value::Other(Special::Infinity),
            f64::NEG_INFINITY => Value::Other(Special::NegativeInfinity),
            v => Value::Finite(v),
        }
        .serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(match Value::deserialize(from)? {
            Value::Finite(v) => v,
            Value::Other(Special::Nan) => f64::NAN,
            Value::Other(Special::Infinity) => f64::INFINITY,
            Value::Other(Special::NegativeInfinity) => f64::NEG_INFINITY,
        })
    }
}

/// `#[serde(with = "whole")]` for a 64-bit whole number.
pub(crate) mod whole {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(number: &i64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(*number)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelled {
            Number(i64),
            Text(String),
        }
        match Spelled::deserialize(from)? {
            Spelled::Number(number) => Ok(number),
            Spelled::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }

    /// The same for a number that may be left out.
    pub(crate) fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
        deserialize(from).map(Some)
    }
}
