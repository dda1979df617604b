//! The file: a protobuf message whose weights are streamed one at a time. Beyond 2 GiB, which no
//! protobuf message may exceed, the weights lie beside it in `model.onnx.data`.

use super::graph::{Content, Initializer};
use super::proto::{
    FLOAT, GRAPH_INITIALIZER, GraphProto, INT64, MODEL_GRAPH, ModelProto, StringStringEntryProto,
    TENSOR_RAW_DATA, TensorProto,
};
use crate::Result;
use architectures::Merged;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::io::{self, Write};
use std::path::Path;

/// The name of the model's file.
pub(crate) const MODEL: &str = "model.onnx";
/// The name of the file of weights that do not fit into it.
const DATA: &str = "model.onnx.data";
/// Numbers of such a file may be mapped: they begin at a page.
const PAGE: usize = 4096;
/// Small tensors stay in the message, where shape inference reads them.
const SMALL: usize = 1024;

/// Writes `model.onnx` into a folder. Messages above `limit` bytes get a file of data.
pub(crate) fn write(
    folder: &Path,
    model: &ModelProto,
    graph: &GraphProto,
    initializers: &[Initializer],
    merged: &Merged,
    limit: usize,
    progress: impl Fn(usize, usize),
) -> Result<()> {
    let progress = |done: usize| progress(done, initializers.len());
    let mut tensors: Vec<TensorProto> = initializers.iter().map(described).collect();
    let inside: usize = initializers.iter().map(Initializer::size).sum();
    let outside = graph.encoded_len() + inside + 256 * tensors.len() > limit;
    if outside {
        durable::write_with(&folder.join(DATA), |out| {
            let mut end: usize = 0;
            for (index, initializer) in initializers.iter().enumerate() {
                let size = initializer.size();
                if size >= SMALL {
                    let start = end.next_multiple_of(PAGE);
                    out.write_all(&vec![0; start - end])?;
                    out.write_all(&initializer.bytes(merged)?)?;
                    refer(&mut tensors[index], start, size);
                    end = start + size;
                }
                progress(index + 1);
            }
            Ok(())
        })?;
    }
    let is_inside = |tensor: &TensorProto| tensor.data_location.is_none();
    let lengths: Vec<usize> = tensors
        .iter()
        .zip(initializers)
        .map(|(tensor, initializer)| {
            let raw = if is_inside(tensor) { field_length(initializer.size()) } else { 0 };
            tensor.encoded_len() + raw
        })
        .collect();
    let length = graph.encoded_len() + lengths.iter().copied().map(field_length).sum::<usize>();
    durable::write_with(&folder.join(MODEL), |out| {
        out.write_all(&model.encode_to_vec())?;
        begin_field(out, MODEL_GRAPH, length)?;
        out.write_all(&graph.encode_to_vec())?;
        for (index, (tensor, initializer)) in tensors.iter().zip(initializers).enumerate() {
            begin_field(out, GRAPH_INITIALIZER, lengths[index])?;
            out.write_all(&tensor.encode_to_vec())?;
            if is_inside(tensor) {
                let bytes = initializer.bytes(merged)?;
                begin_field(out, TENSOR_RAW_DATA, bytes.len())?;
                out.write_all(&bytes)?;
            }
            if !outside {
                progress(index + 1);
            }
        }
        Ok(())
    })?;
    Ok(())
}

fn described(initializer: &Initializer) -> TensorProto {
    TensorProto {
        dims: initializer.dims.iter().map(|&size| size as i64).collect(),
        data_type: Some(initializer.kind),
        name: Some(initializer.name.clone()),
        ..TensorProto::default()
    }
}

fn refer(tensor: &mut TensorProto, offset: usize, length: usize) {
    tensor.data_location = Some(1);
    tensor.external_data = vec![
        StringStringEntryProto::new("location", DATA),
        StringStringEntryProto::new("offset", offset),
        StringStringEntryProto::new("length", length),
    ];
}

/// Bytes of a field with content of this length; all our fields' keys take one.
fn field_length(content: usize) -> usize {
    1 + encoded_len_varint(content as u64) + content
}

fn begin_field(out: &mut dyn Write, field: u32, length: usize) -> io::Result<()> {
    let mut start = Vec::new();
    encode_key(field, WireType::LengthDelimited, &mut start);
    encode_varint(length as u64, &mut start);
    out.write_all(&start)
}

impl Initializer {
    /// In bytes.
    fn size(&self) -> usize {
        let width = match self.kind {
            FLOAT => 4,
            INT64 => 8,
            _ => 1,
        };
        self.dims.iter().product::<usize>() * width
    }

    fn bytes(&self, merged: &Merged) -> io::Result<Vec<u8>> {
        let bytes = match &self.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Tensor { name, shape, form } => {
                form.bytes(&merged.tensor(name, shape).map_err(io::Error::other)?, shape)
            }
        };
        assert_eq!(bytes.len(), self.size(), "{}", self.name);
        Ok(bytes)
    }
}
