//! A pretrained model written anew with its encoder in 4 bits, so that Transformers loads it with
//! bitsandbytes, and we load what quantising in memory would have given, to the bit.
//!
//! In 4 bits are the matrices that QLoRA freezes: the linear layers of the encoder. All else (biases,
//! embeddings, norms, heads) is copied as it is stored, under its modern name; but what a head has tied
//! to the encoder is not written again, since Transformers ties it again.
//!
//! One tensor at a time is in memory. As a file begins with the sizes of its tensors, every matrix is
//! quantised twice: once for its scales, which are kept (an eighth of a bit per number), and once
//! more for its codes, when it is their turn.
//!
//! Refused is a model that is quantised already, and one whose encoder is not whole.

use crate::builder::Builder;
use crate::checkpoint::{Checkpoint, canonical};
use crate::config::Config;
use crate::lora::{LoraConfig, Method};
use crate::memory::Meta;
use crate::tensor_file::{StoredTensor, TensorFile, size, write_stored};
use crate::{Error, quantized};
use kernels::Nf4Matrix;
use safetensors::Dtype;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;

/// What was written in 4 bits, and what that saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantized {
    /// Number of matrices.
    pub matrices: usize,
    /// Numbers in them.
    pub numbers: usize,
    /// Bytes of all tensors of the model, before.
    pub bytes_before: usize,
    /// Bytes of all tensors of the model, after.
    pub bytes: usize,
}

/// A pretrained model whose encoder can be written in 4 bits.
#[derive(Debug)]
pub struct Quantizer {
    checkpoint: Checkpoint,
    /// Prefix of the encoder's names, such as `bert`.
    root: &'static str,
    /// Whether that prefix is left out in what is written.
    bare: bool,
    /// Shapes [out, in] of the matrices that LoRA freezes, by canonical name.
    matrices: HashMap<String, [usize; 2]>,
}

impl Quantizer {
    /// Opens a model folder, and reads all of the encoder to check it.
    ///
    /// # Errors
    /// The model is quantised already or of an unknown family; a tensor of the encoder is missing,
    /// has another shape or numbers that are not finite; or one is there twice.
    pub fn open(folder: &Path) -> Result<Quantizer, Error> {
        let config = Config::read(folder)?;
        let checkpoint = Checkpoint::open(folder)?;
        refuse_quantized(folder, &config, &checkpoint)?;
        let matrices = packed_matrices(&config, &checkpoint)?;
        let class = config.architectures.as_ref().and_then(|classes| classes.first());
        let bare = class.is_some_and(|class| class == config.family.encoder);
        let quantizer = Quantizer { checkpoint, root: config.family.root, bare, matrices };
        quantizer.refuse_double_names(folder)?;
        Ok(quantizer)
    }

    /// The name that Transformers gives a tensor in this class of model.
    fn written_name(&self, canonical: &str) -> String {
        match canonical.strip_prefix(self.root).and_then(|name| name.strip_prefix('.')) {
            Some(rootless) if self.bare => rootless.to_owned(),
            _ => canonical.to_owned(),
        }
    }

    /// Whether a tensor is a head's, and one of the encoder's as well.
    fn is_tied(&self, stored: &str, file: &TensorFile) -> bool {
        let is_encoders = |name: &str| {
            canonical(self.root, name).strip_prefix(self.root).is_some_and(|n| n.starts_with('.'))
        };
        let mut others = self.checkpoint.stored().into_iter();
        !is_encoders(stored)
            && others.any(|(other, its_file)| {
                std::ptr::eq(file, its_file) && is_encoders(other) && file.are_one(stored, other)
            })
    }

    fn refuse_double_names(&self, folder: &Path) -> Result<(), Error> {
        let mut seen = HashMap::new();
        for (stored, _) in self.checkpoint.stored() {
            let name = self.written_name(&canonical(self.root, stored));
            if let Some(other) = seen.insert(name.clone(), stored) {
                let (path, stored) = (folder.to_path_buf(), [other, stored].map(str::to_owned));
                return Err(Error::Twice { path, name, stored });
            }
        }
        Ok(())
    }

    /// Writes the weights to the file `target` with the encoder in NF4: blocks of 64, double
    /// quantisation. `progress` is told how many steps of how many are done.
    ///
    /// # Errors
    /// The file system refuses, or the model's files changed.
    pub fn write_nf4(
        &self,
        target: &Path,
        progress: impl Fn(usize, usize),
    ) -> Result<Quantized, Error> {
        let (done, steps) = (Cell::new(0), 2 * self.matrices.len());
        let quantize = |name: &str, shape: [usize; 2]| -> Result<Nf4Matrix, Error> {
            let data = self.checkpoint.get(self.root, name, &shape)?;
            let matrix = Nf4Matrix::quantize(&data, shape[1], true);
            done.set(done.get() + 1);
            progress(done.get(), steps);
            Ok(matrix)
        };
        let quantize = &quantize;
        let mut tensors = Vec::new();
        let (mut numbers, mut bytes_before) = (0, 0);
        for (stored, file) in self.checkpoint.stored() {
            if self.is_tied(stored, file) {
                continue;
            }
            let (dtype, found) = file.kind(stored)?.ok_or_else(|| gone(file, stored))?;
            bytes_before += size(dtype, &found);
            let canonical = canonical(self.root, stored);
            let name = self.written_name(&canonical);
            let Some(&shape) = self.matrices.get(&canonical) else {
                let bytes = move || match file.raw(stored)? {
                    Some(raw) => Ok(raw.data),
                    None => Err(gone(file, stored)),
                };
                tensors.push(StoredTensor { name, dtype, shape: found, bytes: Box::new(bytes) });
                continue;
            };
            let count = shape[0] * shape[1];
            numbers += count;
            tensors.extend(quantized::parts(&name, &quantize(&canonical, shape)?));
            let codes = move || Ok(Cow::Owned(quantize(&canonical, shape)?.into_codes()));
            let (shape, bytes) = (vec![count.div_ceil(2), 1], Box::new(codes));
            tensors.push(StoredTensor { name, dtype: Dtype::U8, shape, bytes });
        }
        let bytes = tensors.iter().map(StoredTensor::size).sum();
        write_stored(target, tensors)?;
        Ok(Quantized { matrices: self.matrices.len(), numbers, bytes_before, bytes })
    }
}

fn gone(file: &TensorFile, name: &str) -> Error {
    file.problem(name, "was there when the file was opened, and is no more".to_owned())
}

fn refuse_quantized(folder: &Path, config: &Config, checkpoint: &Checkpoint) -> Result<(), Error> {
    let refused = |how: String| Err(Error::QuantizedAlready { path: folder.to_path_buf(), how });
    if let Some(settings) = &config.quantization_config {
        let method = settings.get("quant_method").and_then(serde_json::Value::as_str);
        let method = method.unwrap_or("an unnamed method");
        return refused(format!("its config.json has a quantization_config of {method}"));
    }
    match checkpoint.stored().iter().find(|(name, _)| quantized::is_state(name)) {
        Some((name, _)) => refused(format!("it has a tensor `{name}`")),
        None => Ok(()),
    }
}

/// Names and shapes [out, in] of the matrices that LoRA freezes: those that the network itself packs
/// when it is built of this checkpoint, here without keeping a number.
pub(crate) fn packed_matrices(
    config: &Config,
    checkpoint: &Checkpoint,
) -> Result<HashMap<String, [usize; 2]>, Error> {
    let (meta, method) = (Meta::default(), Method::Lora(LoraConfig::default()));
    let mut builder = Builder::new(&meta, checkpoint, config.family, &method, 0);
    config.architecture.encoder(&mut builder)?;
    Ok(builder.packed.into_iter().map(|(name, (shape, _))| (name, shape)).collect())
}
