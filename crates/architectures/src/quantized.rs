//! 4-bit weights as bitsandbytes 0.50 stores them in safetensors: beside the codes of `X.weight`
//! lie `.absmax`, `.quant_map`, with double quantisation `.nested_absmax` and `.nested_quant_map`,
//! and `.quant_state.bitsandbytes__nf4`, JSON in bytes that says how they belong together.

use crate::Error;
use crate::tensor_file::TensorFile;
use kernels::{NF4_CODE, Nf4Absmax, Nf4Matrix, StoredType};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

/// How frozen weights of the encoder are kept in memory (QLoRA, Dettmers et al. 2023).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// In the precision of the products.
    #[default]
    None,
    /// 4-bit NormalFloat, blocks of 64, double quantisation.
    Nf4,
    /// 8-bit integers with a scale per row.
    Int8,
}

/// The last part of the state's name.
const STATE: &str = ".quant_state.bitsandbytes__nf4";

/// The JSON in the state.
#[derive(Debug, Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
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
        return match file_of(&format!("{name}.quant_state.bitsandbytes__fp4")) {
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
        let part = format!("{name}.{suffix}");
        let found = file_of(&part).map(|file| file.tensor(&part)).transpose()?.flatten();
        found.map(|(_, data)| data).ok_or_else(|| problem(format!("lacks its part `{part}`")))
    };
    let state: State = serde_json::from_slice(&bytes(&state_name)?)
        .map_err(|error| problem(format!("has a damaged quantisation state: {error}")))?;
    let (rows, columns) = match state.shape[..] {
        [rows, columns] if state.quant_type == "nf4" => (rows, columns),
        _ => return Err(problem(format!("is {} of shape {:?}", state.quant_type, state.shape))),
    };
    let stored = match state.dtype.as_str() {
        "float32" => StoredType::F32,
        "bfloat16" => StoredType::Bf16,
        "float16" => StoredType::F16,
        other => return Err(problem(format!("was quantised from {other}"))),
    };
    if numbers("quant_map")? != NF4_CODE {
        return Err(problem("has another code book than NF4's".to_owned()));
    }
    let absmax = match (state.nested_blocksize, state.nested_offset) {
        (Some(block), Some(offset)) => {
            let map = Box::<[f32; 256]>::try_from(numbers("nested_quant_map")?)
                .map_err(|map| problem(format!("has a nested map of {} values", map.len())))?;
            let codes = bytes(&format!("{name}.absmax"))?;
            Nf4Absmax::Nested { codes, absmax: numbers("nested_absmax")?, map, block, offset }
        }
        _ => Nf4Absmax::Plain(numbers("absmax")?),
    };
    Nf4Matrix::from_parts(bytes(name)?, absmax, state.blocksize, (rows, columns), stored)
        .map(Some)
        .ok_or_else(|| {
            problem(
                "has quantisation parts that do not fit each other or are not finite".to_owned(),
            )
        })
}
