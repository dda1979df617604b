//! A fine-tuned classifier as one network without adapters: every tensor that Transformers' class has,
//! under its name and in f32, with `W + s·B·A` where a layer has an adapter, as PEFT's
//! `merge_and_unload` computes it. Where the frozen weights were kept in few bits, W is what those bits
//! stand for, since that is what was trained on (QLoRA). With LLM.int8() what they are multiplied by was
//! rounded as well, and that is not to be had in a checkpoint.
//!
//! What nothing reads (BigBird's pooler) may be missing in the base, and is zero then.
//!
//! One tensor at a time is in memory. Refused is an adapter that does not fit its base.

use crate::backend::Backend;
use crate::checkpoint::{Checkpoint, StoredWeight};
use crate::classifier::SequenceClassifier;
use crate::config::Config;
use crate::cpu::{Cpu, CpuWeight};
use crate::lora::Method;
use crate::memory::Meta;
use crate::quantize::packed_matrices;
use crate::quantized::Quantization;
use crate::tensor_file::{StoredTensor, TensorFile, write_stored};
use crate::{Error, peft};
use kernels::{Epilogue, Isa, Matrix, PackedMatrix, Precision, gemm_unpacked};
use safetensors::Dtype;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;

/// A base model and what was trained on it, as one.
#[derive(Debug)]
pub struct Merged {
    /// Family and shape of the network.
    pub config: Config,
    /// Number of labels.
    pub labels: usize,
    base: Checkpoint,
    adapter: Option<Adapter>,
    /// Shapes [out, in] of the matrices that were kept in few bits.
    quantized: HashMap<String, [usize; 2]>,
    /// What keeps them so.
    backend: Cpu,
    /// Every tensor's name and shape, in the order of the network.
    tensors: Vec<(String, Vec<usize>)>,
    /// Names of those that no result depends on.
    unread: Vec<String>,
}

/// Adapters, and the head trained with them.
#[derive(Debug)]
struct Adapter {
    file: TensorFile,
    /// α/r, or α/√r.
    scale: f32,
}

impl Merged {
    /// The model in `folder`: fine-tuned in full, or an adapter on the model in `base`, whose frozen
    /// weights were kept with this `quantization`. `config` is the classifier's.
    ///
    /// # Errors
    /// A file is missing or damaged, or the adapter belongs to another model.
    pub fn open(
        config: Config,
        folder: &Path,
        base: Option<&Path>,
        labels: usize,
        quantization: Quantization,
        isa: Isa,
    ) -> Result<Merged, Error> {
        let adapter = base.map(|_| Adapter::open(&config, folder, labels)).transpose()?;
        let quantized = match quantization {
            Quantization::None => HashMap::new(),
            _ => packed_matrices(&config, &Checkpoint::blank())?,
        };
        // Those that full fine-tuning would train, on a network without numbers.
        let (meta, blank) = (Meta::default(), Checkpoint::blank());
        let all =
            SequenceClassifier::build(&meta, config.clone(), &blank, labels, &Method::Full, 0)?;
        Ok(Merged {
            base: Checkpoint::open(base.unwrap_or(folder))?,
            adapter,
            quantized,
            backend: Cpu::new(isa, Precision::F32, quantization),
            tensors: all.parameters.iter().map(|p| (p.name.clone(), p.shape.clone())).collect(),
            unread: all.unread,
            config,
            labels,
        })
    }

    /// Every tensor's name in Transformers' class and its shape, in the order of the network.
    pub fn tensors(&self) -> &[(String, Vec<usize>)] {
        &self.tensors
    }

    /// The numbers of one of the [`tensors`](Merged::tensors), row-major.
    ///
    /// # Errors
    /// The base model lacks it, or has it in another shape or with numbers that are not finite.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        if let Some(adapter) = &self.adapter
            && let Some((_, head)) = adapter.file.tensor(&peft::stored_name(name))?
        {
            return Ok(head);
        }
        let stored = match self.base.get_weight(self.config.family.root, name, shape) {
            Err(Error::MissingTensor { .. }) if self.unread.iter().any(|unread| unread == name) => {
                StoredWeight::Dense(vec![0.0; shape.iter().product()])
            }
            stored => stored?,
        };
        let mut weight = match self.quantized.get(name) {
            Some(&[out, input]) => match self.backend.pack(stored, out, input) {
                CpuWeight::Quantized(matrix) => matrix.to_dense(),
                CpuWeight::Packed { .. } => unreachable!("this backend quantises"),
            },
            None => stored.into_dense(),
        };
        if let (Some(adapter), [out, input]) = (&self.adapter, shape)
            && let Some(layer) = name.strip_suffix(".weight")
        {
            adapter.add(self.backend.isa(), layer, [*out, *input], &mut weight)?;
        }
        Ok(weight)
    }

    /// Writes all of it to the safetensors file `target`. `progress` is told how many tensors of how
    /// many are written.
    ///
    /// # Errors
    /// The file system refuses, or as for [`tensor`](Merged::tensor).
    pub fn write(&self, target: &Path, progress: impl Fn(usize, usize)) -> Result<(), Error> {
        let (done, progress) = (Cell::new(0), &progress);
        let tensors = self.tensors.iter().map(|(name, shape)| {
            let done = &done;
            let bytes = move || {
                let data = self.tensor(name, shape)?;
                done.set(done.get() + 1);
                progress(done.get(), self.tensors.len());
                Ok(Cow::Owned(data.iter().flat_map(|x| x.to_le_bytes()).collect()))
            };
            let (name, shape) = (name.clone(), shape.clone());
            StoredTensor { name, dtype: Dtype::F32, shape, bytes: Box::new(bytes) }
        });
        write_stored(target, tensors.collect())
    }
}

impl Adapter {
    fn open(config: &Config, folder: &Path, labels: usize) -> Result<Adapter, Error> {
        let lora = peft::read_adapter_config(folder)?;
        lora.check()?;
        let scale = lora.scale();
        // A network without numbers takes it, to find what does not fit.
        let (meta, config, method) = (Meta::default(), config.clone(), Method::Lora(lora));
        let blank = Checkpoint::blank();
        let mut model = SequenceClassifier::build(&meta, config, &blank, labels, &method, 0)?;
        peft::read_adapter(&meta, &mut model, folder)?;
        Ok(Adapter { file: TensorFile::open(&folder.join(peft::ADAPTER_WEIGHTS))?, scale })
    }

    /// `weight += s·B·A` where the layer has an adapter.
    fn add(
        &self,
        isa: Isa,
        layer: &str,
        [out, input]: [usize; 2],
        weight: &mut [f32],
    ) -> Result<(), Error> {
        let part =
            |letter| self.file.tensor(&peft::stored_name(&format!("{layer}.lora_{letter}.weight")));
        let (Some((shape, a)), Some((_, b))) = (part('A')?, part('B')?) else { return Ok(()) };
        let r = shape[0];
        let (a, b) = (Matrix::new(&a, r, input), Matrix::new(&b, out, r));
        let epilogue = Epilogue { alpha: self.scale, accumulate: true, ..Epilogue::default() };
        let scratch = &mut PackedMatrix::default();
        gemm_unpacked(isa, Precision::F32, b, a, weight, epilogue, scratch);
        Ok(())
    }
}
