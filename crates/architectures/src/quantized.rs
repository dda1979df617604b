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

/// The 4-bit weight `name`, if that is how the file stores it.
///
/// # Errors
/// A part is missing, or the parts do not fit each other.
pub(crate) fn read(file: &TensorFile, name: &str) -> Result<Option<Nf4Matrix>, Error> {
    let problem = |problem: String| file.problem(name, problem);
    let state_name = format!("{name}{STATE}");
    let Some(state) = file.bytes(&state_name, Dtype::U8)? else {
        return match file.bytes(&format!("{name}.quant_state.bitsandbytes__fp4"), Dtype::U8)? {
            Some(_) => Err(problem("is quantised as fp4; only nf4 can be read".to_owned())),
            None => Ok(None),
        };
    };
    let state: State = serde_json::from_slice(&state)
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
    let part = |suffix: &str| -> Result<Vec<f32>, Error> {
        let name = format!("{name}.{suffix}");
        match file.tensor(&name)? {
            Some((_, data)) => Ok(data),
            None => Err(problem(format!("lacks its part `{name}`"))),
        }
    };
    if part("quant_map")? != NF4_CODE {
        return Err(problem("has another code book than NF4's".to_owned()));
    }
    let absmax = match (state.nested_blocksize, state.nested_offset) {
        (Some(block), Some(offset)) => {
            let map = Box::<[f32; 256]>::try_from(part("nested_quant_map")?)
                .map_err(|map| problem(format!("has a nested map of {} values", map.len())))?;
            let codes = file.bytes(&format!("{name}.absmax"), Dtype::U8)?;
            let codes = codes.ok_or_else(|| problem("lacks its part `absmax`".to_owned()))?;
            Nf4Absmax::Nested { codes, absmax: part("nested_absmax")?, map, block, offset }
        }
        _ => Nf4Absmax::Plain(part("absmax")?),
    };
    let codes = file.bytes(name, Dtype::U8)?.ok_or_else(|| problem("is not there".to_owned()))?;
    Nf4Matrix::from_parts(codes, absmax, state.blocksize, (rows, columns), stored)
        .map(Some)
        .ok_or_else(|| problem("has quantisation parts that do not fit each other".to_owned()))
}
