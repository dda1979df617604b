//! Weights as `torch.save` writes them (`pytorch_model.bin`), in both of its containers: the zip
//! archive (`archive.rs`) and the stream before it (`legacy.rs`). Either holds a pickle that says
//! which tensor is which view of which storage (`pickle.rs`), and the storages' raw numbers.
//!
//! A pickle is a program; ours is read as data and can build nothing but tensors. What it claims
//! about them is checked against the file before a number is read: memory is bounded by the file.
//!
//! Refuses everything but a dictionary of dense tensors by name; values in it that are no tensors
//! are passed over, as a state dictionary may hold them and no weight is one.

mod archive;
mod error;
mod legacy;
mod pickle;
#[cfg(test)]
mod tests;
mod value;
mod view;

pub use error::PytorchError;

use archive::Archive;
use pickle::Pickle;
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;
use value::{Heap, Value};
use view::Layout;

/// What lies where in a file by `torch.save`.
#[derive(Debug)]
pub(crate) struct Index {
    storages: Vec<Storage>,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Debug)]
struct Storage {
    key: String,
    place: Place,
    /// Whether the numbers agree with the check sum, once that is known.
    whole: OnceLock<bool>,
}

#[derive(Debug)]
struct Tensor {
    storage: usize,
    dtype: Dtype,
    layout: Layout,
}

/// Bytes of the file, and their CRC-32 where the container keeps one.
#[derive(Clone, Debug)]
struct Place {
    range: Range<usize>,
    crc: Option<u32>,
}

/// A tensor as it would lie in a safetensors file: numbers row-major, little-endian.
#[derive(Debug)]
pub(crate) struct RawTensor<'a> {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Cow<'a, [u8]>,
}

/// What the tensors of a file say about a storage.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Claim {
    dtype: Dtype,
    /// Number of numbers.
    length: usize,
    bytes: usize,
}

/// Claims by a storage's key.
type Claims<'a> = BTreeMap<&'a str, Claim>;

impl Index {
    /// Reads what the file says about its tensors, and checks it.
    ///
    /// # Errors
    /// It is damaged, holds anything but weights, or lies about them.
    pub fn read(bytes: &[u8]) -> Result<Index, PytorchError> {
        if archive::is_archive(bytes) {
            let archive = Archive::read(bytes)?;
            let folder = archive.folder()?;
            let pickle = record(bytes, &archive, &format!("{folder}/data.pkl"))?;
            let pickle = pickle.ok_or(PytorchError::NoStateDict)?;
            let pickle = pickle::read(pickle, 0)?;
            let order = record(bytes, &archive, &format!("{folder}/byteorder"))?;
            if order.is_some_and(|order| order != b"little") {
                return Err(PytorchError::BigEndian);
            }
            let claims = claims(&pickle.heap, bytes.len())?;
            let places = claims.iter().map(|(&key, claim)| {
                let bad = |problem: String| PytorchError::Storage { key: key.to_owned(), problem };
                let entry = archive.find(&format!("{folder}/data/{key}"));
                let entry = entry.ok_or_else(|| bad("is not in the archive".to_owned()))?;
                let found = entry.content.len();
                if found != claim.bytes {
                    let claimed = claim.bytes;
                    return Err(bad(format!("has {found} bytes, its tensors claim {claimed}")));
                }
                Ok((key, Place { range: entry.content.clone(), crc: Some(entry.crc) }))
            });
            let places = places.collect::<Result<_, _>>()?;
            Index::new(&pickle, &claims, places)
        } else {
            let (pickle, keys_at) = legacy::object(bytes)?;
            let claims = claims(&pickle.heap, bytes.len())?;
            let places = legacy::storages(bytes, keys_at, &claims)?;
            Index::new(&pickle, &claims, places)
        }
    }

    fn new(
        pickle: &Pickle<'_>,
        claims: &Claims<'_>,
        places: BTreeMap<&str, Place>,
    ) -> Result<Index, PytorchError> {
        let Value::Dict(root) = pickle.root else { return Err(PytorchError::NoStateDict) };
        let mut tensors = BTreeMap::new();
        let numbers: BTreeMap<&str, usize> =
            places.keys().enumerate().map(|(number, &key)| (key, number)).collect();
        for (name, value) in &pickle.heap.dicts[root] {
            let Value::Text(name) = name else { return Err(PytorchError::NoStateDict) };
            let &Value::Tensor(tensor) = value else { continue };
            let tensor = &pickle.heap.tensors[tensor];
            let key = pickle.heap.storages[tensor.storage].key;
            let bad = |problem: String| PytorchError::Tensor { name: (*name).to_owned(), problem };
            let Some(&storage) = numbers.get(key) else {
                return Err(bad(format!("has its numbers in storage `{key}`, which is not there")));
            };
            let claim = claims[key];
            let layout = Layout::checked(tensor, claim.length).map_err(bad)?;
            tensors.insert((*name).to_owned(), Tensor { storage, dtype: claim.dtype, layout });
        }
        if tensors.is_empty() {
            return Err(PytorchError::NoStateDict);
        }
        let storages = places.into_iter().map(|(key, place)| Storage {
            key: key.to_owned(),
            place,
            whole: OnceLock::new(),
        });
        Ok(Index { storages: storages.collect(), tensors })
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Type and shape of a tensor.
    pub fn kind(&self, name: &str) -> Option<(Dtype, Vec<usize>)> {
        self.tensors.get(name).map(|tensor| (tensor.dtype, tensor.layout.shape.clone()))
    }

    /// Whether two tensors are the same numbers of a storage, as torch saves tied ones.
    pub fn are_one(&self, a: &str, b: &str) -> bool {
        let of = |name| self.tensors.get(name).map(|t| (t.storage, t.dtype, &t.layout));
        of(a).is_some() && of(a) == of(b)
    }

    /// A tensor of the file, whose bytes these are.
    ///
    /// # Errors
    /// Its storage is damaged, or smaller than the tensor (which repeats it).
    pub fn tensor<'a>(
        &self,
        bytes: &'a [u8],
        name: &str,
    ) -> Result<Option<RawTensor<'a>>, PytorchError> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(None) };
        let storage = &self.storages[tensor.storage];
        let numbers = &bytes[storage.place.range.clone()];
        if let Some(crc) = storage.place.crc
            && !*storage.whole.get_or_init(|| archive::is_whole(numbers, crc))
        {
            let (key, problem) = (storage.key.clone(), "does not match its CRC-32".to_owned());
            return Err(PytorchError::Storage { key, problem });
        }
        let data = tensor.layout.row_major(numbers, tensor.dtype.bitsize() / 8);
        let data =
            data.map_err(|problem| PytorchError::Tensor { name: name.to_owned(), problem })?;
        Ok(Some(RawTensor { dtype: tensor.dtype, shape: tensor.layout.shape.clone(), data }))
    }
}

/// The content of an entry that is not a storage.
fn record<'a>(
    bytes: &'a [u8],
    archive: &Archive,
    name: &str,
) -> Result<Option<&'a [u8]>, PytorchError> {
    let Some(entry) = archive.find(name) else { return Ok(None) };
    let content = &bytes[entry.content.clone()];
    if !archive::is_whole(content, entry.crc) {
        let problem = "does not match its CRC-32".to_owned();
        return Err(PytorchError::Entry { name: name.to_owned(), problem });
    }
    Ok(Some(content))
}

/// What tensors say about storages, which must not contradict each other nor exceed the file.
fn claims<'a>(heap: &Heap<'a>, file: usize) -> Result<Claims<'a>, PytorchError> {
    let mut claims = BTreeMap::new();
    for storage in &heap.storages {
        let bad = |problem: String| PytorchError::Storage { key: storage.key.to_owned(), problem };
        let length = usize::try_from(storage.length).ok();
        let bytes = length.and_then(|length| length.checked_mul(storage.dtype.bitsize() / 8));
        let (Some(length), Some(bytes)) = (length, bytes.filter(|&bytes| bytes <= file)) else {
            let length = storage.length;
            return Err(bad(format!("should hold {length} numbers in a file of {file} bytes")));
        };
        let claim = Claim { dtype: storage.dtype, length, bytes };
        if *claims.entry(storage.key).or_insert(claim) != claim {
            return Err(bad("is said to be of two types or lengths".to_owned()));
        }
    }
    Ok(claims)
}
