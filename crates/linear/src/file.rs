//! A model as one safetensors file: `weight` F64 `[features, outputs]`, `intercept` F64 `[outputs]`,
//! `idf` F64 `[features]`, and `terms`, the n-grams in UTF-8, each followed by a line feed. The
//! header's metadata holds the rest as JSON under `linear`. Equal models make equal bytes.
//!
//! Refused: files above 2 GiB, files that safetensors refuses, unknown versions and keys, tensors
//! that are missing, of another type or another shape, numbers that are not finite, terms that are
//! not ascending or no n-grams of the lengths that the settings name. Memory is bounded by the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::{Error, LinearClassifier, Model, Result, Task, Vectorizer, VectorizerConfig};

const VERSION: u32 = 1;
const KEY: &str = "linear";
/// Keeps all counts of terms and tokens below 2³².
const MAX_BYTES: u64 = 2 << 30;

/// What the tensors do not say.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    task: Task,
    vectorizer: VectorizerConfig,
}

pub(crate) fn save(model: &Model, path: &Path) -> Result<()> {
    Ok(durable::write(path, &encode(model)?)?)
}

/// The bytes of a file.
fn encode(model: &Model) -> Result<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| Error::Encode { reason: error.to_string() };
    let (vectorizer, classifier) = (model.vectorizer(), model.classifier());
    let header = Header {
        version: VERSION,
        task: classifier.task(),
        vectorizer: vectorizer.config().clone(),
    };
    let header = serde_json::to_string(&header).map_err(|error| failed(&error))?;
    let (features, outputs) = (classifier.features(), classifier.task().outputs());
    let terms: String = vectorizer.terms().iter().flat_map(|term| [term.as_str(), "\n"]).collect();
    let weight = bytes(classifier.weights());
    let intercept = bytes(classifier.intercepts());
    let idf = bytes(vectorizer.idf());
    let tensors = [
        ("idf", Dtype::F64, vec![features], idf.as_slice()),
        ("intercept", Dtype::F64, vec![outputs], &intercept),
        ("terms", Dtype::U8, vec![terms.len()], terms.as_bytes()),
        ("weight", Dtype::F64, vec![features, outputs], &weight),
    ];
    let view = |(name, dtype, shape, data)| {
        TensorView::new(dtype, shape, data).map(|view| (name, view)).map_err(|e| failed(&e))
    };
    let views = tensors.into_iter().map(view).collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([(KEY.to_owned(), header)]);
    safetensors::serialize(views, Some(metadata)).map_err(|error| failed(&error))
}

pub(crate) fn load(path: &Path) -> Result<Model> {
    let read = |source| Error::Read { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(read)?;
    let too_large = |size| Error::TooLarge { path: path.to_path_buf(), size, limit: MAX_BYTES };
    let size = file.metadata().map_err(read)?.len();
    if size > MAX_BYTES {
        return Err(too_large(size));
    }
    let mut content = Vec::new();
    // A device or a pipe may give more than it said.
    file.take(MAX_BYTES + 1).read_to_end(&mut content).map_err(read)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(too_large(content.len() as u64));
    }
    decode(&content).map_err(|reason| Error::File { path: path.to_path_buf(), reason })
}

/// Reads the bytes of a file, or says what is wrong with them.
fn decode(content: &[u8]) -> Result<Model, String> {
    let (_, metadata) = SafeTensors::read_metadata(content).map_err(|error| error.to_string())?;
    let header = metadata.metadata().as_ref().and_then(|entries| entries.get(KEY));
    let header = header.ok_or_else(|| format!("its metadata has no `{KEY}`"))?;
    let Header { version, task, vectorizer } =
        serde_json::from_str(header).map_err(|error| format!("`{KEY}`: {error}"))?;
    if version != VERSION {
        return Err(format!("it is of version {version}; this program reads version {VERSION}"));
    }
    vectorizer.check().map_err(|error| error.to_string())?;
    if matches!(task, Task::MultiLabel(0) | Task::Classes(0 | 1)) {
        return Err(format!("it has {task}"));
    }

    let tensors = SafeTensors::deserialize(content).map_err(|error| error.to_string())?;
    let terms = terms(&tensors, &vectorizer)?;
    let (features, outputs) = (terms.len(), task.outputs());
    let idf = floats(&tensors, "idf", &[features])?;
    if let Some(weight) = idf.iter().find(|&&weight| weight <= 0.0) {
        return Err(format!("`idf` holds {weight}"));
    }
    let weights = floats(&tensors, "weight", &[features, outputs])?;
    let intercepts = floats(&tensors, "intercept", &[outputs])?;
    let vectorizer = Vectorizer::new(vectorizer, terms, idf);
    Ok(Model::new(vectorizer, LinearClassifier::new(task, weights, intercepts)))
}

fn terms(tensors: &SafeTensors, config: &VectorizerConfig) -> Result<Vec<String>, String> {
    let view = tensors.tensor("terms").map_err(|error| error.to_string())?;
    if view.dtype() != Dtype::U8 {
        return Err(format!("`terms` is of type {:?}, not U8", view.dtype()));
    }
    let text = std::str::from_utf8(view.data()).map_err(|error| format!("`terms`: {error}"))?;
    let Some(lines) = text.strip_suffix('\n') else {
        return Err("`terms` is empty or has no line feed at its end".into());
    };
    let terms: Vec<String> = lines.split('\n').map(str::to_owned).collect();
    let (shortest, longest) = config.ngram_range;
    for (number, term) in terms.iter().enumerate() {
        let n = term.split(' ').count();
        if n < shortest || n > longest || term.split(' ').any(str::is_empty) {
            return Err(format!("{term:?} is no n-gram of {shortest} to {longest} tokens"));
        }
        if number > 0 && *term <= terms[number - 1] {
            return Err(format!("{:?} comes before {term:?} in `terms`", terms[number - 1]));
        }
    }
    Ok(terms)
}

fn floats(tensors: &SafeTensors, name: &str, shape: &[usize]) -> Result<Vec<f64>, String> {
    let view = tensors.tensor(name).map_err(|error| error.to_string())?;
    if view.dtype() != Dtype::F64 || view.shape() != shape {
        let (dtype, found) = (view.dtype(), view.shape());
        return Err(format!("`{name}` is {dtype:?} {found:?}, not F64 {shape:?}"));
    }
    let (chunks, _) = view.data().as_chunks();
    let numbers: Vec<f64> = chunks.iter().map(|chunk| f64::from_le_bytes(*chunk)).collect();
    match numbers.iter().position(|number| !number.is_finite()) {
        Some(index) => Err(format!("`{name}` holds {} at {index}", numbers[index])),
        None => Ok(numbers),
    }
}

fn bytes(numbers: &[f64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Labels, SvmConfig};

    fn file() -> Vec<u8> {
        let texts = ["ab cd", "cd ef", "ef ab cd"];
        let labels =
            Labels::MultiLabel(vec![vec![true, false], vec![false, true], vec![true, true]]);
        let vectorizer = VectorizerConfig { min_df: 1, ..VectorizerConfig::default() };
        let fit = Model::fit(&texts, &labels, &vectorizer, &SvmConfig::default());
        encode(&fit.expect("a small fit").0).expect("it can be written")
    }

    #[test]
    fn a_file_cut_or_extended_anywhere_is_refused() {
        let mut file = file();
        assert!(decode(&file).is_ok());
        for length in 0..file.len() {
            assert!(decode(&file[..length]).is_err(), "cut to {length} bytes");
        }
        file.push(0);
        assert!(decode(&file).is_err());
    }

    #[test]
    fn a_flipped_bit_gives_an_error_or_a_model_that_works() {
        let file = file();
        let mut refused = 0;
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let Ok(model) = decode(&flipped) else {
                refused += 1;
                continue;
            };
            let decisions = model.decision_values(&["ab cd ef", "zz"]);
            assert_eq!(decisions.len(), 2 * model.task().outputs(), "bit {bit}");
        }
        assert!(refused > 1000, "{refused} of {} refused", file.len() * 8);
    }
}
