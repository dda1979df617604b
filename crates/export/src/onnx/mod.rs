//! ONNX: `model.onnx` beside `config.json` and the tokenizer, as onnxruntime and Optimum's
//! `ORTModelForSequenceClassification` take it.
//!
//! Opset 17 (2022: onnxruntime from 1.12 on). Inputs `input_ids`, `attention_mask` and, where the model
//! has more than one token type, `token_type_ids`, all int64 [batch, sequence], padded on the right;
//! output `logits` f32 [batch, labels]. Labels, the length at which texts are cut and whatever else the
//! caller knows are in `metadata_props`.
//!
//! In 8 bits the encoder's matrices and the word embeddings are a quarter as large; products then run on
//! integers (`MatMulInteger`), activations being quantised when it is run, by one scale per token. The head
//! stays in f32.

mod attention;
mod backend;
mod composed;
mod file;
mod graph;
mod proto;
#[cfg(test)]
mod tests;
mod trace;
mod weights;

use crate::classifier::{Classifier, write_json};
use crate::{Error, Result};
use architectures::{Checkpoint, Method, SequenceClassifier};
use graph::Graph;
use proto::{
    FLOAT, GraphProto, INT64, ModelProto, OperatorSetIdProto, StringStringEntryProto,
    ValueInfoProto,
};
use serde_json::{Map, Value};
use std::path::Path;
use trace::Trace;

/// Operations as of this version of ONNX's set, and the version of the format that has it.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// No protobuf message may be larger.
const LARGEST_MESSAGE: usize = i32::MAX as usize;

/// Writes the model's folder. `metadata` is added to what the file says of itself; `progress` is told how
/// many tensors of how many are written.
///
/// # Errors
/// The family has an operation that no graph has been written for, the file system refuses, or the model's
/// files changed.
pub fn onnx_model(
    classifier: &Classifier,
    int8: bool,
    metadata: &Map<String, Value>,
    folder: &Path,
    progress: impl Fn(usize, usize),
) -> Result<()> {
    write(classifier, int8, metadata, folder, LARGEST_MESSAGE, progress)
}

fn write(
    classifier: &Classifier,
    int8: bool,
    metadata: &Map<String, Value>,
    folder: &Path,
    limit: usize,
    progress: impl Fn(usize, usize),
) -> Result<()> {
    let (graph, logits) = traced(classifier, int8)?;
    let input = |name: &str| ValueInfoProto::matrix(name, INT64, [Err("batch"), Err("sequence")]);
    let labels = classifier.merged.labels;
    let Graph { mut nodes, initializers, .. } = graph;
    // The last node gives the output its name.
    if let Some(last) = nodes.iter_mut().find(|node| node.output.contains(&logits)) {
        last.output = vec!["logits".to_owned()];
    }
    let body = GraphProto {
        node: nodes,
        name: Some(classifier.merged.config.family.classifier.to_owned()),
        input: classifier.input_names().into_iter().map(input).collect(),
        output: vec![ValueInfoProto::matrix("logits", FLOAT, [Err("batch"), Ok(labels)])],
    };
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("ferrotune".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(OPSET),
        }],
        metadata_props: properties(classifier, metadata),
    };
    let merged = &classifier.merged;
    file::write(folder, &model, &body, &initializers, merged, limit, progress)?;
    write_json(&folder.join("config.json"), classifier.settings())?;
    classifier.write_tokenizer(folder)
}

/// The network as a graph, and its result.
fn traced(classifier: &Classifier, int8: bool) -> Result<(Graph, String)> {
    let merged = &classifier.merged;
    let family = merged.config.family;
    let token_types = classifier.input_names().contains(&trace::TOKEN_TYPE_IDS);
    let trace = Trace::new(int8, family.head, token_types);
    let (config, blank, method) = (merged.config.clone(), Checkpoint::blank(), Method::Full);
    let model = SequenceClassifier::build(&trace, config, &blank, merged.labels, &method, 0)?;
    let logits =
        trace.run(&model).map_err(|what| Error::NoGraph { family: family.model_type, what })?;
    drop(model);
    Ok((trace.graph.into_inner(), logits))
}

fn properties(classifier: &Classifier, more: &Map<String, Value>) -> Vec<StringStringEntryProto> {
    // A word is a word; all else is JSON.
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let of_config = ["id2label", "problem_type"].into_iter().filter_map(|key| {
        Some(StringStringEntryProto::new(key, text(classifier.settings().get(key)?)))
    });
    let own = [
        StringStringEntryProto::new("max_length", classifier.tokenizer.max_length),
        StringStringEntryProto::new("pretrained_model", &classifier.pretrained_model),
    ];
    let more = more.iter().map(|(key, value)| StringStringEntryProto::new(key, text(value)));
    of_config.chain(own).chain(more).collect()
}
