//! A backend that computes nothing and writes down what it is asked to compute: the same network code
//! that trains, run once on it, gives the graph of any family.
//!
//! Where the engine has packed rows [T, H], the graph has [batch, sequence, H], padded on the right; for
//! rows of sequences, [B, H], it has [batch, 1, H]. A query sees no padding, so that what is computed
//! for padding reaches no logit.

use super::graph::{Graph, Value};
use super::proto::AttributeProto;
use super::weights::Form;
use architectures::{Batch, Pass, SequenceClassifier, Shape};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

/// The inputs of the graph.
pub(crate) const INPUT_IDS: &str = "input_ids";
pub(crate) const ATTENTION_MASK: &str = "attention_mask";
pub(crate) const TOKEN_TYPE_IDS: &str = "token_type_ids";

/// Writes down a network.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) graph: RefCell<Graph>,
    /// Whether products with the encoder's matrices are in 8 bits, and the table of words is.
    pub(super) int8: bool,
    /// Prefixes of the head's names.
    pub(super) head: &'static [&'static str],
    /// Whether token types are an input.
    pub(super) token_types: bool,
    /// What was uploaded, by number: its numbers, unless all are 0.
    pub(super) uploads: RefCell<Vec<Option<Vec<f32>>>>,
    /// Names and shapes of those that are the model's tensors.
    names: RefCell<HashMap<usize, (String, Vec<usize>)>>,
    /// The first operation that has no form in a graph.
    problem: Cell<Option<&'static str>>,
}

/// A matrix without numbers.
#[derive(Debug)]
pub(crate) struct Traced {
    pub(super) content: Content,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    /// No operation wrote it.
    Nothing,
    Uploaded(usize),
    Computed(Value),
}

impl Shape for Traced {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }
}

/// Numbers of rows, tokens and sequences.
#[derive(Clone, Debug)]
pub(crate) enum Indices {
    Constant(Vec<u32>),
    /// The input.
    InputIds,
    /// Position of each token in its sequence, and what is added.
    Positions(u32),
    TokenTypes,
    /// Where sequences begin among tokens.
    Starts,
    /// First token of each sequence.
    FirstTokens,
    /// Where sequences begin among first tokens.
    StartsOfFirst,
}

impl Trace {
    pub(crate) fn new(int8: bool, head: &'static [&'static str], token_types: bool) -> Trace {
        Trace {
            graph: RefCell::default(),
            int8,
            head,
            token_types,
            uploads: RefCell::default(),
            names: RefCell::default(),
            problem: Cell::new(None),
        }
    }

    /// Runs a network whose every tensor is trained, so that each is known by its name. Returns the
    /// logits [batch, labels], or what of it has no form in a graph.
    pub(crate) fn run(&self, model: &SequenceClassifier<Trace>) -> Result<Value, &'static str> {
        for parameter in model.parameters.iter() {
            if let Content::Uploaded(number) = parameter.value.content {
                let named = (parameter.name.clone(), parameter.shape.clone());
                self.names.borrow_mut().insert(number, named);
            }
        }
        // Any numbers of tokens and sequences: none is written down.
        let batch = Batch {
            ids: Indices::InputIds,
            positions: Indices::Positions(0),
            token_types: Indices::TokenTypes,
            cu_seqlens: Indices::Starts,
            first_tokens: Indices::FirstTokens,
            cu_first: Indices::StartsOfFirst,
            lengths: vec![3, 3],
            longest: model.config.max_length(),
            tokens: 6,
            sequences: 2,
        };
        let (logits, _) = model.forward(self, &Pass::evaluation(), &batch);
        let logits = self.read(&logits); // [batch, 1, labels]
        let mut graph = self.graph.borrow_mut();
        let first = graph.integers(&[1]);
        let logits = graph.node("Squeeze", &[&logits, &first], &[]);
        match self.problem.get() {
            Some(problem) => Err(problem),
            None => Ok(logits),
        }
    }

    pub(super) fn unsupported(&self, what: &'static str) {
        if self.problem.get().is_none() {
            self.problem.set(Some(what));
        }
    }

    /// The model's tensor that a matrix is, if it is one.
    pub(super) fn named(&self, matrix: &Traced) -> Option<(String, Vec<usize>)> {
        let Content::Uploaded(number) = matrix.content else { return None };
        self.names.borrow().get(&number).cloned()
    }

    /// A matrix's value.
    pub(super) fn read(&self, matrix: &Traced) -> Value {
        if let Some((name, shape)) = self.named(matrix) {
            return self.tensor(&name, &shape, Form::Plain);
        }
        match &matrix.content {
            Content::Computed(value) => value.clone(),
            Content::Uploaded(number) => {
                let numbers = self.uploads.borrow()[*number].clone();
                let numbers = numbers.unwrap_or_else(|| vec![0.0; matrix.rows * matrix.columns]);
                self.graph.borrow_mut().numbers(&numbers, &[matrix.rows, matrix.columns])
            }
            Content::Nothing => {
                self.unsupported("reads what no operation has written");
                Value::new()
            }
        }
    }

    /// A tensor of the model; what follows is named after its module.
    pub(super) fn tensor(&self, name: &str, shape: &[usize], form: Form) -> Value {
        let mut graph = self.graph.borrow_mut();
        let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
        module.clone_into(&mut graph.scope);
        graph.tensor(name, shape, form)
    }

    pub(super) fn node(&self, op: &str, inputs: &[&Value], attributes: &[AttributeProto]) -> Value {
        self.graph.borrow_mut().node(op, inputs, attributes)
    }

    pub(super) fn number(&self, x: f32) -> Value {
        self.graph.borrow_mut().number(x)
    }

    pub(super) fn integers(&self, data: &[i64]) -> Value {
        self.graph.borrow_mut().integers(data)
    }

    pub(super) fn matrix_of(&self, value: Value, rows: usize, columns: usize) -> Traced {
        Traced { content: Content::Computed(value), rows, columns }
    }
}
