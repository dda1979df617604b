//! A pickle as data: the opcodes of protocol 2 that `torch.save` writes for weights, on a machine
//! that can build tuples, lists, dictionaries, storages and tensors, and nothing else. No name in a
//! pickle is ever looked up or called: the few in `value.rs` stand for themselves, and every other
//! one is refused, as is every other opcode.
//!
//! Values refer to each other by index into a heap, so that no depth of nesting costs stack, and a
//! value that occurs often is stored once. The number of opcodes, and so the heap, is limited.
//!
//! Source: CPython's `pickletools`; the subset is that of `torch.load(weights_only=True)` as far as
//! dictionaries of tensors need it.

use super::error::PytorchError;
use super::value::{Global, Heap, Storage, Tensor, Value, global, integer};
use super::view::DIMENSION_LIMIT;
use std::collections::HashMap;

/// A tensor takes about 60. An opcode makes some 60 bytes on the heap; that of a tensor a kilobyte
/// at most, for its shape and strides.
const OPCODE_LIMIT: usize = 1 << 20;
/// Pickles set dictionary items in batches of 1000 pairs.
const STACK_LIMIT: usize = 1 << 14;
const MARK_LIMIT: usize = 1 << 6;
const MEMO_LIMIT: usize = 1 << 20;
/// Bytes of a name.
const TEXT_LIMIT: usize = 1 << 12;

/// One pickle, read.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub root: Value<'a>,
    pub heap: Heap<'a>,
    /// Where it ends.
    pub end: usize,
}

/// Reads the pickle that begins at `start`.
///
/// # Errors
/// It is cut, not of protocol 2, holds anything but weights, or exceeds a limit.
pub(super) fn read(bytes: &[u8], start: usize) -> Result<Pickle<'_>, PytorchError> {
    let mut machine = Machine {
        bytes,
        at: start,
        opcode_at: start,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        heap: Heap::default(),
    };
    for count in 1.. {
        machine.opcode_at = machine.at;
        machine.limit("the number of opcodes", count, OPCODE_LIMIT)?;
        if let Some(root) = machine.step()? {
            return Ok(Pickle { root, heap: machine.heap, end: machine.at });
        }
    }
    unreachable!("the count is limited")
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the opcode in work began.
    opcode_at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    heap: Heap<'a>,
}

impl<'a> Machine<'a> {
    /// Executes one opcode; STOP gives the result.
    fn step(&mut self) -> Result<Option<Value<'a>>, PytorchError> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => {
                let root = self.pop()?;
                let alone = self.stack.is_empty() && self.marks.is_empty();
                return if alone { Ok(Some(root)) } else { self.fail("values are left over") };
            }
            0x80 => match self.take(1)?[0] {
                2 => {}
                found => {
                    let what = "the protocol of the pickle";
                    return Err(self.limited(what, u64::from(found), 2));
                }
            },
            b'(' => {
                self.limit("the number of open marks", self.marks.len() + 1, MARK_LIMIT)?;
                self.marks.push(self.stack.len());
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' => {
                let value = self.take(1)?[0];
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => {
                let length = self.take(1)?[0];
                let bytes = self.take(length.into())?;
                self.push(integer(bytes))?;
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(length as usize)?;
            }
            // Of Python 2.
            b'U' => {
                let length = self.take(1)?[0];
                self.text(length.into())?;
            }
            b')' => self.push_tuple(Vec::new())?,
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(count).filter(|&s| s >= self.floor());
                let Some(start) = start else { return self.fail("the stack is empty") };
                let items = self.stack.split_off(start);
                self.push_tuple(items)?;
            }
            b't' => {
                let items = self.pop_marked()?;
                self.push_tuple(items)?;
            }
            b']' => {
                self.heap.sequences.push(Vec::new());
                self.push(Value::List(self.heap.sequences.len() - 1))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b'e' => {
                let items = self.pop_marked()?;
                self.extend_list(items)?;
            }
            b'}' => self.push_dict()?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_marked()?;
                self.extend_dict(&items)?;
            }
            b'q' => {
                let index = self.take(1)?[0];
                self.remember(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.remember(index)?;
            }
            b'h' => {
                let index = self.take(1)?[0];
                self.recall(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                match global(module, name) {
                    Some(global) => self.push(Value::Global(global))?,
                    None => {
                        let name = format!("{module}.{name}");
                        return Err(PytorchError::Global { at: self.opcode_at, name });
                    }
                }
            }
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            // The attributes of a dictionary (`_metadata`) are of no use here.
            b'b' => {
                self.pop()?;
                if !matches!(self.top()?, Value::Dict(_)) {
                    return self.fail("only a dictionary may have attributes");
                }
            }
            _ => return Err(PytorchError::Opcode { at: self.opcode_at, opcode }),
        }
        Ok(None)
    }

    /// What a persistent id stands for: `("storage", type, key, device, length)`; the legacy
    /// stream's has a sixth element, None, where storages were once views of others.
    fn persistent(&mut self) -> Result<(), PytorchError> {
        let id = self.pop()?;
        let (dtype, key, length) = match self.tuple(id)? {
            [
                Value::Text("storage"),
                Value::Global(Global::StorageType(dtype)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(length),
            ]
            | [
                Value::Text("storage"),
                Value::Global(Global::StorageType(dtype)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(length),
                Value::None,
            ] => (*dtype, *key, *length),
            _ => return self.fail("a persistent id that is no storage"),
        };
        self.heap.storages.push(Storage { key, dtype, length });
        self.push(Value::Storage(self.heap.storages.len() - 1))
    }

    /// What a call of one of the known functions gives.
    fn reduce(&mut self) -> Result<(), PytorchError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments)?;
        match (function, arguments) {
            (Value::Global(Global::OrderedDict), []) => self.push_dict(),
            (
                Value::Global(Global::RebuildTensor),
                &[
                    Value::Storage(storage),
                    Value::Int(offset),
                    shape,
                    strides,
                    Value::Bool(_),
                    Value::Dict(_),
                ],
            ) => {
                let (shape, strides) = (self.integers(shape)?, self.integers(strides)?);
                self.heap.tensors.push(Tensor { storage, offset, shape, strides });
                self.push(Value::Tensor(self.heap.tensors.len() - 1))
            }
            (
                Value::Global(Global::RebuildParameter),
                &[tensor @ Value::Tensor(_), Value::Bool(_), Value::Dict(_)],
            ) => self.push(tensor),
            _ => self.fail("a call that builds no tensor, parameter or empty dictionary"),
        }
    }

    fn integers(&self, tuple: Value<'a>) -> Result<Vec<i64>, PytorchError> {
        let items = self.tuple(tuple)?;
        // They are copied, and one tuple may be the shape of many tensors.
        self.limit("the number of dimensions", items.len(), DIMENSION_LIMIT)?;
        let items = items.iter().map(|item| match item {
            Value::Int(value) => Ok(*value),
            _ => self.fail("a shape or stride that is no integer"),
        });
        items.collect()
    }

    fn tuple(&self, value: Value<'a>) -> Result<&[Value<'a>], PytorchError> {
        match value {
            Value::Tuple(index) => Ok(&self.heap.sequences[index]),
            _ => self.fail("a tuple is missing"),
        }
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), PytorchError> {
        self.limit("the height of the stack", self.stack.len() + 1, STACK_LIMIT)?;
        self.stack.push(value);
        Ok(())
    }

    fn push_tuple(&mut self, items: Vec<Value<'a>>) -> Result<(), PytorchError> {
        self.heap.sequences.push(items);
        self.push(Value::Tuple(self.heap.sequences.len() - 1))
    }

    fn push_dict(&mut self) -> Result<(), PytorchError> {
        self.heap.dicts.push(Vec::new());
        self.push(Value::Dict(self.heap.dicts.len() - 1))
    }

    fn text(&mut self, length: usize) -> Result<(), PytorchError> {
        self.limit("the length of a text", length, TEXT_LIMIT)?;
        match std::str::from_utf8(self.take(length)?) {
            Ok(text) => self.push(Value::Text(text)),
            Err(_) => self.fail("a text that is not UTF-8"),
        }
    }

    fn extend_list(&mut self, mut items: Vec<Value<'a>>) -> Result<(), PytorchError> {
        let Value::List(index) = self.top()? else { return self.fail("a list is missing") };
        self.heap.sequences[index].append(&mut items);
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Value<'a>]) -> Result<(), PytorchError> {
        let Value::Dict(index) = self.top()? else { return self.fail("a dictionary is missing") };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return self.fail("a dictionary key without a value");
        }
        self.heap.dicts[index].extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn remember(&mut self, index: u32) -> Result<(), PytorchError> {
        self.limit("the number of a memo", index as usize, MEMO_LIMIT)?;
        let value = self.top()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), PytorchError> {
        match self.memo.get(&index) {
            Some(&value) => self.push(value),
            None => self.fail("a memo that was never set"),
        }
    }

    /// The height below which the stack belongs to an earlier mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Value<'a>, PytorchError> {
        match self.stack.last() {
            Some(&value) if self.stack.len() > self.floor() => Ok(value),
            _ => self.fail("the stack is empty"),
        }
    }

    fn pop(&mut self) -> Result<Value<'a>, PytorchError> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn pop_marked(&mut self) -> Result<Vec<Value<'a>>, PytorchError> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => self.fail("no mark is open"),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], PytorchError> {
        let Some(taken) = self.bytes[self.at..].get(..count) else {
            return Err(PytorchError::Truncated { at: self.bytes.len() });
        };
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PytorchError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The rest of the line.
    fn line(&mut self) -> Result<&'a str, PytorchError> {
        let rest = &self.bytes[self.at..];
        let near = &rest[..rest.len().min(TEXT_LIMIT)];
        let Some(length) = near.iter().position(|&byte| byte == b'\n') else {
            if near.len() < rest.len() {
                return Err(self.limited(
                    "the length of a name",
                    near.len() as u64 + 1,
                    TEXT_LIMIT,
                ));
            }
            return Err(PytorchError::Truncated { at: self.bytes.len() });
        };
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).or_else(|_| self.fail("a name that is not UTF-8"))
    }

    fn limit(&self, what: &'static str, value: usize, limit: usize) -> Result<(), PytorchError> {
        if value > limit { Err(self.limited(what, value as u64, limit)) } else { Ok(()) }
    }

    fn limited(&self, what: &'static str, value: u64, limit: usize) -> PytorchError {
        PytorchError::Limit { at: self.opcode_at, what, value, limit: limit as u64 }
    }

    fn fail<T>(&self, problem: &'static str) -> Result<T, PytorchError> {
        Err(PytorchError::Pickle { at: self.opcode_at, problem })
    }
}
