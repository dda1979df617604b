//! A graph of operations under construction. The same operation on the same values is one node, so
//! that layers share masks and position biases. Nodes are named after the module whose weights they
//! follow.

use super::proto::{AttributeProto, FLOAT, INT64, NodeProto};
use super::weights::Form;
use std::collections::{HashMap, HashSet};

/// The name of a value in the graph.
pub(crate) type Value = String;

/// Operations and what they read.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) initializers: Vec<Initializer>,
    /// What new nodes are named after.
    pub(crate) scope: String,
    /// Outputs of the nodes there are, by what they compute.
    known: HashMap<String, Vec<Value>>,
    constants: HashMap<(i32, Vec<usize>, Vec<u8>), Value>,
    names: HashSet<String>,
}

/// A tensor that is part of the graph.
#[derive(Debug)]
pub(crate) struct Initializer {
    pub(crate) name: String,
    pub(crate) kind: i32,
    pub(crate) dims: Vec<usize>,
    pub(crate) content: Content,
}

/// What gives an initializer's bytes.
#[derive(Debug)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    /// The model's tensor of this name and shape, in some form.
    Tensor {
        name: String,
        shape: Vec<usize>,
        form: Form,
    },
}

impl Graph {
    /// A node with one output.
    pub(crate) fn node(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: &[AttributeProto],
    ) -> Value {
        let [output] = self.outputs(op, inputs, attributes);
        output
    }

    /// A node with this many outputs.
    pub(crate) fn outputs<const N: usize>(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: &[AttributeProto],
    ) -> [Value; N] {
        let key = format!("{op} {inputs:?} {attributes:?}");
        if let Some(outputs) = self.known.get(&key) {
            return std::array::from_fn(|i| outputs[i].clone());
        }
        let name = self.unused(&format!("{}/{op}", self.scope));
        let output: [Value; N] = std::array::from_fn(|i| match i {
            0 => name.clone(),
            i => format!("{name}:{i}"),
        });
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|&input| input.clone()).collect(),
            output: output.to_vec(),
            name: Some(name),
            op_type: Some(op.to_owned()),
            attribute: attributes.to_vec(),
        });
        self.known.insert(key, output.to_vec());
        output
    }

    /// A tensor of the model, in this form.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize], form: Form) -> Value {
        let (kind, dims) = form.kind(shape);
        let content = Content::Tensor { name: name.to_owned(), shape: shape.to_vec(), form };
        self.initializer(&format!("{name}{}", form.suffix()), kind, dims, content)
    }

    /// One number.
    pub(crate) fn number(&mut self, x: f32) -> Value {
        self.numbers(&[x], &[])
    }

    /// Numbers of this shape.
    pub(crate) fn numbers(&mut self, data: &[f32], dims: &[usize]) -> Value {
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(FLOAT, dims, bytes)
    }

    /// One whole number.
    pub(crate) fn integer(&mut self, x: i64) -> Value {
        self.constant(INT64, &[], x.to_le_bytes().to_vec())
    }

    /// A list of whole numbers.
    pub(crate) fn integers(&mut self, data: &[i64]) -> Value {
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(INT64, &[data.len()], bytes)
    }

    /// A constant of this type and shape.
    pub(crate) fn constant(&mut self, kind: i32, dims: &[usize], bytes: Vec<u8>) -> Value {
        let key = (kind, dims.to_vec(), bytes);
        if let Some(known) = self.constants.get(&key) {
            return known.clone();
        }
        let name = self.unused("constant");
        let name = self.initializer(&name, kind, key.1.clone(), Content::Bytes(key.2.clone()));
        self.constants.insert(key, name.clone());
        name
    }

    fn initializer(&mut self, name: &str, kind: i32, dims: Vec<usize>, content: Content) -> Value {
        if !self.initializers.iter().any(|known| known.name == name) {
            self.initializers.push(Initializer { name: name.to_owned(), kind, dims, content });
        }
        name.to_owned()
    }

    fn unused(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut count = 1;
        while !self.names.insert(name.clone()) {
            count += 1;
            name = format!("{wanted}_{count}");
        }
        name
    }
}
