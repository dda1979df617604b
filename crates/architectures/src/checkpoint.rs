//! Weights as Hugging Face stores them: the first that there is of `model.safetensors`, the shards
//! named by `model.safetensors.index.json`, `pytorch_model.bin`, and the shards named by
//! `pytorch_model.bin.index.json`.
//!
//! Old checkpoints call a LayerNorm's weight and bias gamma and beta; checkpoints of a bare encoder
//! lack the root prefix (`bert.`). Both are found under the canonical name.

use crate::tensor_file::TensorFile;
use crate::{Error, quantized, random};
use kernels::{Nf4Matrix, QuantizedMatrix};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A weight as a checkpoint stores it.
#[derive(Clone, Debug)]
pub enum StoredWeight {
    /// Numbers, row-major.
    Dense(Vec<f32>),
    /// Four bits a number.
    Nf4(Nf4Matrix),
}

impl StoredWeight {
    /// Numbers, row-major.
    pub fn into_dense(self) -> Vec<f32> {
        match self {
            StoredWeight::Dense(data) => data,
            StoredWeight::Nf4(matrix) => QuantizedMatrix::Nf4(matrix).to_dense(),
        }
    }
}

/// All weights of a model.
#[derive(Debug)]
pub struct Checkpoint(Source);

#[derive(Debug)]
enum Source {
    Files {
        folder: PathBuf,
        files: Vec<TensorFile>,
        /// Which file holds a tensor.
        index: BTreeMap<String, usize>,
    },
    Random {
        seed: u64,
    },
    Blank,
}

impl Checkpoint {
    /// Opens the weights of a model folder.
    ///
    /// # Errors
    /// No weights, an index that names files outside the folder, a missing or damaged file.
    pub fn open(folder: &Path) -> Result<Checkpoint, Error> {
        let paths = weight_files(folder)?;
        let (mut files, mut index) = (Vec::new(), BTreeMap::new());
        for path in paths {
            let file = TensorFile::open(&path)?;
            for name in file.names()? {
                index.insert(name, files.len());
            }
            files.push(file);
        }
        Ok(Checkpoint(Source::Files { folder: folder.to_path_buf(), files, index }))
    }

    /// Untrained weights of any shape, for benchmarks: a function of the seed and a tensor's name.
    pub fn random(seed: u64) -> Checkpoint {
        Checkpoint(Source::Random { seed })
    }

    /// Zeros of any shape, to build a network whose numbers nobody reads.
    pub fn blank() -> Checkpoint {
        Checkpoint(Source::Blank)
    }

    /// The name that every tensor is stored under, sorted, and the file it is in; none where no file
    /// is read.
    pub(crate) fn stored(&self) -> Vec<(&str, &TensorFile)> {
        let Source::Files { files, index, .. } = &self.0 else { return Vec::new() };
        index.iter().map(|(name, &file)| (name.as_str(), &files[file])).collect()
    }

    /// The numbers of the tensor with this canonical name and shape, or `None` where the
    /// checkpoint lacks it. `root` is the encoder's prefix, such as `bert`.
    ///
    /// # Errors
    /// The tensor has another shape, or holds no finite numbers.
    pub fn find(&self, root: &str, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, Error> {
        Ok(self.find_weight(root, name, shape)?.map(StoredWeight::into_dense))
    }

    fn find_weight(
        &self,
        root: &str,
        name: &str,
        shape: &[usize],
    ) -> Result<Option<StoredWeight>, Error> {
        let (files, index) = match &self.0 {
            Source::Files { files, index, .. } => (files, index),
            Source::Blank => {
                return Ok(Some(StoredWeight::Dense(vec![0.0; shape.iter().product()])));
            }
            Source::Random { seed } => {
                return Ok(Some(StoredWeight::Dense(untrained(*seed, name, shape))));
            }
        };
        for candidate in candidates(root, name) {
            let Some(&file) = index.get(&candidate) else { continue };
            let file = &files[file];
            let (found, data) = match quantized::read(&candidate, |part| {
                index.get(part).map(|&i| &files[i])
            })? {
                Some(matrix) => (vec![matrix.rows(), matrix.columns()], StoredWeight::Nf4(matrix)),
                None => match file.tensor(&candidate)? {
                    Some((shape, data)) => (shape, StoredWeight::Dense(data)),
                    None => continue,
                },
            };
            if found != shape {
                let (path, expected) = (file.path().to_path_buf(), shape.to_vec());
                return Err(Error::Shape { path, name: candidate, found, expected });
            }
            return Ok(Some(data));
        }
        Ok(None)
    }

    /// As [`Checkpoint::find`], for a tensor that must be there.
    ///
    /// # Errors
    /// It is not there, or as for `find`.
    pub fn get(&self, root: &str, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        Ok(self.get_weight(root, name, shape)?.into_dense())
    }

    /// As [`Checkpoint::get`], without dequantising what is stored in few bits.
    ///
    /// # Errors
    /// As for `get`.
    pub fn get_weight(
        &self,
        root: &str,
        name: &str,
        shape: &[usize],
    ) -> Result<StoredWeight, Error> {
        self.find_weight(root, name, shape)?.ok_or_else(|| Error::MissingTensor {
            path: match &self.0 {
                Source::Files { folder, .. } => folder.clone(),
                Source::Random { .. } | Source::Blank => PathBuf::new(),
            },
            name: name.to_owned(),
            looked: candidates(root, name).join(", "),
        })
    }
}

/// What a new network has: LayerNorms that change nothing, biases of 0, weights with a deviation of
/// 0.02.
fn untrained(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let size = shape.iter().product();
    if name.ends_with("bias") {
        return vec![0.0; size];
    }
    if name.ends_with("LayerNorm.weight") || name.ends_with("norm.weight") {
        return vec![1.0; size];
    }
    let bound = 0.02 * 3.0f32.sqrt();
    let mut random = random::generator(seed, name);
    (0..size).map(|_| bound * (2.0 * random::uniform(&mut random) - 1.0)).collect()
}

/// The names under which a tensor may be stored, the canonical one first.
fn candidates(root: &str, name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    names.extend(name.strip_prefix(root).and_then(|n| n.strip_prefix('.')).map(str::to_owned));
    let old = |name: &String| {
        name.strip_suffix("LayerNorm.weight")
            .map(|n| format!("{n}LayerNorm.gamma"))
            .or_else(|| name.strip_suffix("LayerNorm.bias").map(|n| format!("{n}LayerNorm.beta")))
    };
    names.extend(names.clone().iter().filter_map(old));
    names
}

/// The canonical name of a tensor that is stored under `stored`: the way back from [`candidates`].
pub(crate) fn canonical(root: &str, stored: &str) -> String {
    let modern = |old: &str, new: &str| Some(format!("{}{new}", stored.strip_suffix(old)?));
    let name = modern("LayerNorm.gamma", "LayerNorm.weight")
        .or_else(|| modern("LayerNorm.beta", "LayerNorm.bias"))
        .unwrap_or_else(|| stored.to_owned());
    let rootless = [
        "embeddings.",
        "embeddings_project.",
        "encoder.",
        "final_norm.",
        "layers.",
        "pooler.",
        "transformer.",
    ];
    let rootless = rootless.iter().any(|part| name.starts_with(part));
    if rootless { format!("{root}.{name}") } else { name }
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    for name in ["model.safetensors", "pytorch_model.bin"] {
        let single = folder.join(name);
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index = folder.join(format!("{name}.index.json"));
        if index.is_file() {
            return shards(folder, &index);
        }
    }
    Err(Error::NoWeights(folder.to_path_buf()))
}

/// The files that an index names, all of which must lie in the folder.
fn shards(folder: &Path, path: &Path) -> Result<Vec<PathBuf>, Error> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    let invalid =
        |reason: String| Error::Json { path: path.to_path_buf(), what: "shard index", reason };
    let index: Index = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if let Some(name) =
        names.iter().find(|name| name.contains(['/', '\\']) || name.starts_with('.'))
    {
        return Err(invalid(format!("shard `{name}` is not a file name in the folder")));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::{candidates, canonical};

    #[test]
    fn old_and_rootless_names_are_tried() {
        assert_eq!(
            candidates("bert", "bert.embeddings.LayerNorm.weight"),
            [
                "bert.embeddings.LayerNorm.weight",
                "embeddings.LayerNorm.weight",
                "bert.embeddings.LayerNorm.gamma",
                "embeddings.LayerNorm.gamma",
            ]
        );
        assert_eq!(candidates("bert", "classifier.bias"), ["classifier.bias"]);
    }

    #[test]
    fn every_name_a_tensor_may_have_leads_back_to_its_canonical_one() {
        for name in [
            "roberta.embeddings.LayerNorm.bias",
            "roberta.embeddings.word_embeddings.weight",
            "roberta.encoder.layer.11.output.LayerNorm.weight",
            "roberta.encoder.layer.0.attention.self.query.weight",
            "roberta.pooler.dense.bias",
            "classifier.dense.weight",
            "lm_head.bias",
        ] {
            for stored in candidates("roberta", name) {
                assert_eq!(canonical("roberta", &stored), name, "{stored}");
            }
        }
    }
}
