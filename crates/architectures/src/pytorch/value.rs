//! What a pickle of weights may hold: plain values, a handful of names, and what those build.

use safetensors::Dtype;

/// A value on the stack; containers are indices into the [`Heap`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// Little-endian bytes of an integer beyond 64 bits.
    Long(&'a [u8]),
    Text(&'a str),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
}

/// The names that a pickle of weights may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageType(Dtype),
}

/// A run of numbers, kept outside the pickle under a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub key: &'a str,
    pub dtype: Dtype,
    /// Number of numbers.
    pub length: i64,
}

/// A view of a storage, as the pickle claims it; nothing has been checked against the storage.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// Index into the heap's storages.
    pub storage: usize,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

/// Everything that values refer to.
#[derive(Debug, Default)]
pub(super) struct Heap<'a> {
    /// Tuples and lists.
    pub sequences: Vec<Vec<Value<'a>>>,
    pub dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub storages: Vec<Storage<'a>>,
    pub tensors: Vec<Tensor>,
}

/// The global of this name, if a pickle of weights may hold it.
pub(super) fn global(module: &str, name: &str) -> Option<Global> {
    let dtype = match (module, name) {
        ("collections", "OrderedDict") => return Some(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => return Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => return Some(Global::RebuildParameter),
        ("torch", "DoubleStorage") => Dtype::F64,
        ("torch", "FloatStorage") => Dtype::F32,
        ("torch", "HalfStorage") => Dtype::F16,
        ("torch", "BFloat16Storage") => Dtype::BF16,
        ("torch", "LongStorage") => Dtype::I64,
        ("torch", "IntStorage") => Dtype::I32,
        ("torch", "ShortStorage") => Dtype::I16,
        ("torch", "CharStorage") => Dtype::I8,
        ("torch", "ByteStorage") => Dtype::U8,
        ("torch", "BoolStorage") => Dtype::BOOL,
        _ => return None,
    };
    Some(Global::StorageType(dtype))
}

/// A little-endian integer in two's complement.
pub(super) fn integer(bytes: &[u8]) -> Value<'_> {
    if bytes.len() > 8 {
        return Value::Long(bytes);
    }
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let mut whole = [if negative { 0xff } else { 0 }; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(whole))
}
