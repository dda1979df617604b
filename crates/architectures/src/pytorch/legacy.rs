//! The stream in which `torch.save` put weights before 2020: pickles of a magic number, a version,
//! the machine's properties, the object and the keys of its storages; then, in the order of the
//! keys, each storage as its length (u64, little-endian) and its numbers.

use super::error::PytorchError;
use super::pickle::{self, Pickle};
use super::value::Value;
use super::{Claims, Place};
use std::collections::BTreeMap;

/// 0x1950a86a20f9469cfc6c, little-endian, as a pickle holds it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;

/// Reads the stream's pickles; gives the object, and where the keys of its storages begin.
pub(super) fn object(bytes: &[u8]) -> Result<(Pickle<'_>, usize), PytorchError> {
    let magic = pickle::read(bytes, 0).map_err(|_| PytorchError::Format)?;
    if !matches!(magic.root, Value::Long(long) if long == MAGIC) {
        return Err(PytorchError::Format);
    }
    let mut at = magic.end;
    let version = next(bytes, &mut at)?;
    if version.root != Value::Int(VERSION) {
        return Err(PytorchError::Format);
    }
    let machine = next(bytes, &mut at)?;
    let Value::Dict(machine_root) = machine.root else { return Err(PytorchError::Format) };
    let big_endian = (Value::Text("little_endian"), Value::Bool(false));
    if machine.heap.dicts[machine_root].contains(&big_endian) {
        return Err(PytorchError::BigEndian);
    }
    let object = next(bytes, &mut at)?;
    Ok((object, at))
}

/// Where each claimed storage lies; `at` is where their keys begin.
pub(super) fn storages<'a>(
    bytes: &'a [u8],
    mut at: usize,
    claims: &Claims<'a>,
) -> Result<BTreeMap<&'a str, Place>, PytorchError> {
    let keys = next(bytes, &mut at)?;
    let Value::List(keys_root) = keys.root else {
        return Err(PytorchError::Pickle { at, problem: "the list of storages is missing" });
    };
    let mut places = BTreeMap::new();
    for key in &keys.heap.sequences[keys_root] {
        let &Value::Text(key) = key else {
            return Err(PytorchError::Pickle { at, problem: "a storage's key is no text" });
        };
        let bad = |problem: String| PytorchError::Storage { key: key.to_owned(), problem };
        let claim = claims.get(key).ok_or_else(|| bad("belongs to no tensor".to_owned()))?;
        let rest = bytes.get(at..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<8>() else {
            return Err(bad("is missing: the file ends before it".to_owned()));
        };
        let length = u64::from_le_bytes(*length);
        if length != claim.length as u64 {
            return Err(bad(format!("holds {length} numbers, its tensors claim {}", claim.length)));
        }
        if rest.len() < claim.bytes {
            return Err(bad(format!("is cut: {} of {} bytes", rest.len(), claim.bytes)));
        }
        let range = at + 8..at + 8 + claim.bytes;
        at = range.end;
        if places.insert(key, Place { range, crc: None }).is_some() {
            return Err(bad("is listed twice".to_owned()));
        }
    }
    if at != bytes.len() {
        let problem = "bytes follow the last storage";
        return Err(PytorchError::Pickle { at, problem });
    }
    Ok(places)
}

fn next<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Pickle<'a>, PytorchError> {
    let pickle = pickle::read(bytes, *at)?;
    *at = pickle.end;
    Ok(pickle)
}
