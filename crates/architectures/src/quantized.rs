//! 4-bit weights as bitsandbytes 0.50 stores them in safetensors: beside the codes of `X.weight`
//! lie `.absmax`, `.quant_map`, with double quantisation `.nested_absmax` and `.nested_quant_map`,
//! and `.quant_state.bitsandbytes__nf4`, JSON in bytes that says how they belong together. What was
//! read is written back byte for byte.

use crate::Error;
use crate::tensor_file::{StoredTensor, TensorFile};
use kernels::{NF4_CODE, Nf4Absmax, Nf4Matrix, StoredType};
use safetensors::Dtype;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::io::{self, Write};

/// How frozen weights of the encoder are kept in memory (QLoRA, Dettmers et al. 2023).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// In the precision of the products.
    #[default]
    None,
    /// 4-bit NormalFloat, blocks of 64, double quantisation.
    Nf4,
    /// 8-bit integers with a scale per row, by which forward multiplies activations rounded to such
    /// integers (LLM.int8(), Dettmers et al. 2022).
    Int8,
}

impl Quantization {
    /// As a configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Quantization::None => "none",
            Quantization::Nf4 => "nf4",
            Quantization::Int8 => "int8",
        }
    }
}

// What follows a weight's name in the names of its parts.
const ABSMAX: &str = ".absmax";
const QUANT_MAP: &str = ".quant_map";
const NESTED_ABSMAX: &str = ".nested_absmax";
const NESTED_QUANT_MAP: &str = ".nested_quant_map";
const STATE: &str = ".quant_state.bitsandbytes__nf4";
/// In the state's name, whatever the code.
const ANY_STATE: &str = ".quant_state.bitsandbytes__";

/// The JSON in the state, its keys in bitsandbytes' order.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nested_blocksize: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nested_dtype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_f64")]
    nested_offset: Option<f32>,
}

/// Python has no f32: it writes all digits of the f64.
#[expect(clippy::ref_option, reason = "serde's signature")]
fn as_f64<S: Serializer>(x: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
    x.map(f64::from).serialize(serializer)
}

/// Types that a weight may have had before, under torch's names.
const TYPES: [(&str, StoredType); 3] =
    [("float32", StoredType::F32), ("bfloat16", StoredType::Bf16), ("float16", StoredType::F16)];

/// Whether a tensor of this name says that another is quantised.
pub(crate) fn is_state(name: &str) -> bool {
    name.contains(ANY_STATE)
}

/// The 4-bit weight `name`, if that is how it is stored. Its parts may lie in different shards;
/// `file_of` gives the file that holds a tensor.
///
/// # Errors
/// A part is missing, or the parts do not fit each other.
pub(crate) fn read<'a>(
    name: &str,
    file_of: impl Fn(&str) -> Option<&'a TensorFile>,
) -> Result<Option<Nf4Matrix>, Error> {
    let state_name = format!("{name}{STATE}");
    let Some(file) = file_of(&state_name) else {
        return match file_of(&format!("{name}{ANY_STATE}fp4")) {
            Some(file) => {
                let problem = "is quantised as fp4; only nf4 can be read".to_owned();
                Err(file.problem(name, problem))
            }
            None => Ok(None),
        };
    };
    let problem = |problem: String| file.problem(name, problem);
    let bytes = |part: &str| -> Result<Vec<u8>, Error> {
        let found = file_of(part).map(|file| file.bytes(part, Dtype::U8)).transpose()?.flatten();
        found.ok_or_else(|| problem(format!("lacks its part `{part}`")))
    };
    let numbers = |suffix: &str| -> Result<Vec<f32>, Error> {
        let part = format!("{name}{suffix}");
        let found = file_of(&part).map(|file| file.tensor(&part)).transpose()?.flatten();
        found.map(|(_, data)| data).ok_or_else(|| problem(format!("lacks its part `{part}`")))
    };
    let state: State = serde_json::from_slice(&bytes(&state_name)?)
        .map_err(|error| problem(format!("has a damaged quantisation state: {error}")))?;
    let (rows, columns) = match state.shape[..] {
        [rows, columns] if state.quant_type == "nf4" => (rows, columns),
        _ => return Err(problem(format!("is {} of shape {:?}", state.quant_type, state.shape))),
    };
    let Some((_, stored)) = TYPES.into_iter().find(|(dtype, _)| *dtype == state.dtype) else {
        return Err(problem(format!("was quantised from {}", state.dtype)));
    };
    if numbers(QUANT_MAP)? != NF4_CODE {
        return Err(problem("has another code book than NF4's".to_owned()));
    }
    let absmax = match (state.nested_blocksize, state.nested_offset) {
        (Some(block), Some(offset)) => {
            let map = Box::<[f32; 256]>::try_from(numbers(NESTED_QUANT_MAP)?)
                .map_err(|map| problem(format!("has a nested map of {} values", map.len())))?;
            let codes = bytes(&format!("{name}{ABSMAX}"))?;
            Nf4Absmax::Nested { codes, absmax: numbers(NESTED_ABSMAX)?, map, block, offset }
        }
        _ => Nf4Absmax::Plain(numbers(ABSMAX)?),
    };
    Nf4Matrix::from_parts(bytes(name)?, absmax, state.blocksize, (rows, columns), stored)
        .map(Some)
        .ok_or_else(|| {
            problem(
                "has quantisation parts that do not fit each other or are not finite".to_owned(),
            )
        })
}

/// The tensors beside the codes of the weight `name`.
pub(crate) fn parts<'a>(name: &str, matrix: &Nf4Matrix) -> Vec<StoredTensor<'a>> {
    let part = |suffix: &str, dtype: Dtype, length: usize, bytes: Vec<u8>| StoredTensor {
        name: format!("{name}{suffix}"),
        dtype,
        shape: vec![length],
        bytes: Box::new(move || Ok(Cow::Owned(bytes))),
    };
    let numbers = |suffix: &str, values: &[f32]| {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        part(suffix, Dtype::F32, values.len(), bytes)
    };
    let dtype = TYPES.into_iter().find(|(_, stored)| *stored == matrix.stored());
    let mut state = State {
        quant_type: "nf4".to_owned(),
        blocksize: matrix.block(),
        dtype: dtype.expect("every type has a name").0.to_owned(),
        shape: vec![matrix.rows(), matrix.columns()],
        nested_blocksize: None,
        nested_dtype: None,
        nested_offset: None,
    };
    let mut parts = vec![numbers(QUANT_MAP, &NF4_CODE)];
    match matrix.absmax() {
        Nf4Absmax::Plain(values) => parts.push(numbers(ABSMAX, values)),
        Nf4Absmax::Nested { codes, absmax, map, block, offset } => {
            parts.push(part(ABSMAX, Dtype::U8, codes.len(), codes.clone()));
            parts.push(numbers(NESTED_ABSMAX, absmax));
            parts.push(numbers(NESTED_QUANT_MAP, &map[..]));
            state.nested_blocksize = Some(*block);
            state.nested_dtype = Some("float32".to_owned());
            state.nested_offset = Some(*offset);
        }
    }
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, PythonSpacing);
    state.serialize(&mut serializer).expect("plain values");
    parts.push(part(STATE, Dtype::U8, json.len(), json));
    parts
}

/// `quantization_config` in the `config.json` of a model whose encoder is stored like this: what
/// Transformers makes 4-bit layers of, and which it leaves alone. A name there skips modules whose
/// name begins or ends with it, at a dot; so BERT's pooler needs two.
pub fn quantization_config() -> Value {
    json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "load_in_8bit": false,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": true,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": [
            "pooler", "pooler.dense", "pre_classifier", "head", "classifier", "cls", "decoder",
            "lm_head", "qa_outputs"
        ],
    })
}

/// JSON as Python's `json.dumps` spaces it: `{"a": [1, 2], "b": 3}`.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// bitsandbytes' own states: read and written again they are the same bytes.
    #[test]
    fn what_bitsandbytes_wrote_is_written_back_byte_for_byte() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nf4/nf4.safetensors");
        let file = TensorFile::open(&path).expect("the fixture");
        for case in ["plain", "double", "straddling", "bfloat16", "float16"] {
            let weight = format!("{case}.weight");
            let matrix = read(&weight, |name| file.kind(name).ok()?.map(|_| &file));
            let matrix = matrix.expect("readable").expect("4-bit");
            let parts = parts(&weight, &matrix);
            let stored = file.names().expect("names");
            let beside_codes = |name: &&String| name.starts_with(&format!("{weight}."));
            assert_eq!(parts.len(), stored.iter().filter(beside_codes).count(), "{case}");
            for part in parts {
                let theirs = file.raw(&part.name).expect("readable");
                let theirs = theirs.unwrap_or_else(|| panic!("no `{}`", part.name));
                assert_eq!((part.dtype, &part.shape), (theirs.dtype, &theirs.shape));
                let ours = (part.bytes)().expect("bytes");
                assert!(ours[..] == theirs.data[..], "{}", part.name);
            }
        }
    }

    #[test]
    fn names_are_those_of_configurations() {
        for quantization in [Quantization::None, Quantization::Nf4, Quantization::Int8] {
            assert_eq!(json!(quantization), json!(quantization.name()));
        }
    }
}
