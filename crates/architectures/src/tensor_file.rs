//! One file of tensors: safetensors, or a `.bin` by `torch.save`. Read, it is mapped: a tensor's
//! numbers are converted to f32 when asked for, and must be finite. Written, it is safetensors and
//! streamed: one tensor at a time is in memory.
//!
//! Tensors are written widest type first, so that each begins aligned, as other readers want it.

use crate::Error;
use crate::pytorch::{self, RawTensor};
use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A tensor's shape and its numbers, row-major.
pub type ShapedData = (Vec<usize>, Vec<f32>);

/// One mapped file of tensors.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: memmap2::Mmap,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Safetensors,
    Pytorch(pytorch::Index),
}

impl TensorFile {
    /// Maps a file and checks what it says about its tensors. A name that ends in `.bin` is that
    /// of a file by `torch.save`, any other that of a safetensors file.
    ///
    /// # Errors
    /// The file cannot be read or is not what its name says.
    pub fn open(path: &Path) -> Result<TensorFile, Error> {
        let read = |source| Error::Read { path: path.to_path_buf(), source };
        let file = std::fs::File::open(path).map_err(read)?;
        // SAFETY: the mapping is only read. Another process that shortens the file meanwhile could
        // end this one; checkpoints are replaced by rename, never written in place.
        #[expect(unsafe_code, reason = "memory mapping")]
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(read)?;
        let path = path.to_path_buf();
        if path.extension().is_some_and(|extension| extension == "bin") {
            return match pytorch::Index::read(&map) {
                Ok(index) => Ok(TensorFile { path, map, format: Format::Pytorch(index) }),
                Err(problem) => Err(Error::Pytorch { path, problem }),
            };
        }
        let file = TensorFile { path, map, format: Format::Safetensors };
        file.safetensors()?;
        Ok(file)
    }

    fn safetensors(&self) -> Result<SafeTensors<'_>, Error> {
        SafeTensors::deserialize(&self.map).map_err(|error| Error::Safetensors {
            path: self.path.clone(),
            reason: match error {
                SafeTensorError::MetadataIncompleteBuffer => format!(
                    "it has {} bytes, but its header tells of another number; was it cut off?",
                    self.map.len()
                ),
                error => error.to_string(),
            },
        })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    ///
    /// # Errors
    /// The file changed since it was opened.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let mut names: Vec<String> = match &self.format {
            Format::Safetensors => {
                self.safetensors()?.names().into_iter().map(str::to_owned).collect()
            }
            Format::Pytorch(index) => index.names().map(str::to_owned).collect(),
        };
        names.sort();
        Ok(names)
    }

    /// A tensor's shape and its numbers as f32, or `None` where there is no such tensor.
    ///
    /// # Errors
    /// The tensor is of a type that holds no weights, or a number is not finite.
    pub fn tensor(&self, name: &str) -> Result<Option<ShapedData>, Error> {
        let Some(raw) = self.raw(name)? else { return Ok(None) };
        let data = self.to_f32(name, &raw)?;
        Ok(Some((raw.shape, data)))
    }

    /// Type and shape of a tensor, or `None` where there is no such tensor.
    ///
    /// # Errors
    /// The file changed since it was opened.
    pub(crate) fn kind(&self, name: &str) -> Result<Option<(Dtype, Vec<usize>)>, Error> {
        match &self.format {
            Format::Safetensors => {
                let view = self.safetensors()?.tensor(name).ok();
                Ok(view.map(|view| (view.dtype(), view.shape().to_vec())))
            }
            Format::Pytorch(index) => Ok(index.kind(name)),
        }
    }

    /// Whether two tensors are stored once, as torch saves tied ones.
    pub(crate) fn are_one(&self, a: &str, b: &str) -> bool {
        match &self.format {
            Format::Safetensors => false,
            Format::Pytorch(index) => index.are_one(a, b),
        }
    }

    /// A tensor as it is stored, or `None` where there is no such tensor.
    ///
    /// # Errors
    /// The file changed since it was opened, or is damaged where the numbers lie.
    pub(crate) fn raw(&self, name: &str) -> Result<Option<RawTensor<'_>>, Error> {
        match &self.format {
            Format::Safetensors => {
                let Ok(view) = self.safetensors()?.tensor(name) else { return Ok(None) };
                let (dtype, shape) = (view.dtype(), view.shape().to_vec());
                Ok(Some(RawTensor { dtype, shape, data: Cow::Borrowed(view.data()) }))
            }
            Format::Pytorch(index) => index
                .tensor(&self.map, name)
                .map_err(|problem| Error::Pytorch { path: self.path.clone(), problem }),
        }
    }

    /// The bytes of a tensor of this type, or `None` where there is no such tensor.
    ///
    /// # Errors
    /// The tensor is of another type.
    pub(crate) fn bytes(&self, name: &str, expected: Dtype) -> Result<Option<Vec<u8>>, Error> {
        let Some(raw) = self.raw(name)? else { return Ok(None) };
        if raw.dtype != expected {
            let found = raw.dtype;
            return Err(self.problem(name, format!("is of type {found:?}, not {expected:?}")));
        }
        Ok(Some(raw.data.into_owned()))
    }

    /// The error about a tensor of this file.
    pub(crate) fn problem(&self, name: &str, problem: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.to_owned(), problem }
    }

    fn to_f32(&self, name: &str, raw: &RawTensor<'_>) -> Result<Vec<f32>, Error> {
        let problem = |problem: String| self.problem(name, problem);
        let bytes = &*raw.data;
        let halves = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let data: Vec<f32> = match raw.dtype {
            Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Dtype::F16 => halves().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            Dtype::BF16 => halves().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            other => return Err(problem(format!("is of type {other:?}, not F32, F16 or BF16"))),
        };
        // A sum is finite only where every number is; summing vectorises, searching does not.
        if !data.iter().map(|x| x * 0.0).sum::<f32>().is_finite() {
            let index = data.iter().position(|x| !x.is_finite()).unwrap_or_default();
            return Err(problem(format!("holds {} at index {index}", data[index])));
        }
        Ok(data)
    }
}

/// A tensor on its way into a file; its numbers are asked for when it is its turn.
pub struct NamedTensor<'a> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    data: Box<dyn Fn() -> Vec<f32> + 'a>,
}

impl<'a> NamedTensor<'a> {
    /// A tensor whose numbers, row-major, are what `data` gives.
    pub fn new(name: String, shape: Vec<usize>, data: impl Fn() -> Vec<f32> + 'a) -> Self {
        NamedTensor { name, shape, data: Box::new(data) }
    }

    /// Its numbers, row-major.
    pub fn data(&self) -> Vec<f32> {
        (self.data)()
    }
}

impl fmt::Debug for NamedTensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.shape)
    }
}

/// A tensor of any type on its way into a file; its bytes are asked for when it is its turn.
pub(crate) struct StoredTensor<'a> {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Bytes<'a>,
}

/// What gives a tensor's bytes, little-endian and row-major.
pub(crate) type Bytes<'a> = Box<dyn FnOnce() -> Result<Cow<'a, [u8]>, Error> + 'a>;

impl StoredTensor<'_> {
    /// Its size in bytes.
    pub(crate) fn size(&self) -> usize {
        size(self.dtype, &self.shape)
    }
}

/// Bytes of a tensor of this type and shape.
pub(crate) fn size(dtype: Dtype, shape: &[usize]) -> usize {
    shape.iter().product::<usize>() * dtype.bitsize() / 8
}

/// Writes f32 tensors as one safetensors file, atomically.
///
/// # Errors
/// The file system refuses.
pub fn write_tensors(path: &Path, tensors: Vec<NamedTensor<'_>>) -> Result<(), Error> {
    let header = tensors.iter().map(|t| (t.name.clone(), Dtype::F32, t.shape.clone())).collect();
    write_file(path, header, |out| {
        for tensor in &tensors {
            let data = tensor.data();
            assert_eq!(data.len(), tensor.shape.iter().product::<usize>(), "{}", tensor.name);
            for x in data {
                out.write_all(&x.to_le_bytes())?;
            }
        }
        Ok(())
    })
}

/// Writes tensors of any type as one safetensors file, atomically.
///
/// # Errors
/// The file system refuses, or what a tensor is made from can no longer be read.
pub(crate) fn write_stored(path: &Path, mut tensors: Vec<StoredTensor<'_>>) -> Result<(), Error> {
    tensors.sort_by_key(|tensor| Reverse(tensor.dtype.bitsize()));
    let header = tensors.iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone())).collect();
    write_file(path, header, |out| {
        for tensor in tensors {
            let (size, name) = (tensor.size(), tensor.name);
            let bytes = (tensor.bytes)().map_err(io::Error::other)?;
            if bytes.len() != size {
                let found = bytes.len();
                return Err(io::Error::other(format!("`{name}` has {found} bytes, not {size}")));
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    })
}

/// Writes one safetensors file, atomically: names, types and shapes, then what `fill` writes, which
/// is their numbers in the same order.
fn write_file(
    path: &Path,
    tensors: Vec<(String, Dtype, Vec<usize>)>,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    let mut end = 0;
    let infos = tensors.into_iter().map(|(name, dtype, shape)| {
        let start = end;
        end += size(dtype, &shape);
        (name, TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let infos = infos.collect();
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let refused = |reason: String| Error::Safetensors { path: path.to_path_buf(), reason };
    let metadata = Metadata::new(Some(format), infos).map_err(|e| refused(e.to_string()))?;
    let mut header = serde_json::to_string(&metadata).map_err(|e| refused(e.to_string()))?;
    // Numbers begin aligned.
    let aligned = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', aligned - header.len()));
    durable::write_with(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        fill(out)
    })?;
    Ok(())
}
