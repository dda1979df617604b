//! What is trained: named values with their gradients, in one fixed order.

use crate::backend::{Backend, Shape};

/// Which parameter; an index into [`Parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterId(usize);

/// One trained tensor.
#[derive(Debug)]
pub struct Parameter<B: Backend> {
    /// Its name in a Hugging Face state dict (for LoRA, without PEFT's `base_model.model.` prefix).
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// Its value.
    pub value: B::Matrix,
    /// The sum of gradients since the last [`Parameters::clear_gradients`].
    pub gradient: B::Matrix,
    /// Whether weight decay applies: not to biases and LayerNorms, as in Hugging Face's Trainer.
    pub decays: bool,
}

/// By the rule of Hugging Face's Trainer: whatever has a bias in its name does not decay, nor what
/// belongs to a norm.
fn decays(name: &str) -> bool {
    let mut parts = name.split('.').map(str::to_lowercase);
    !parts.any(|part| part.contains("bias") || part.ends_with("norm"))
}

/// All trained tensors of a network.
#[derive(Debug)]
pub struct Parameters<B: Backend> {
    all: Vec<Parameter<B>>,
}

impl<B: Backend> Default for Parameters<B> {
    fn default() -> Self {
        Parameters { all: Vec::new() }
    }
}

impl<B: Backend> Parameters<B> {
    /// Adds a parameter; as a matrix it has a row for each index of the first of several dimensions.
    pub(crate) fn add(
        &mut self,
        backend: &B,
        name: String,
        shape: Vec<usize>,
        data: &[f32],
    ) -> ParameterId {
        let rows = if shape.len() > 1 { shape[0] } else { 1 };
        let columns = data.len() / rows;
        self.all.push(Parameter {
            decays: decays(&name),
            value: backend.upload(rows, columns, data),
            gradient: backend.zeros(rows, columns),
            name,
            shape,
        });
        ParameterId(self.all.len() - 1)
    }

    /// The parameter of this name.
    pub(crate) fn named(&self, name: &str) -> Option<ParameterId> {
        self.all.iter().position(|parameter| parameter.name == name).map(ParameterId)
    }

    pub(crate) fn value(&self, id: ParameterId) -> &B::Matrix {
        &self.all[id.0].value
    }

    pub(crate) fn gradient(&mut self, id: ParameterId) -> &mut B::Matrix {
        &mut self.all[id.0].gradient
    }

    /// A value beside its own gradient, for products that read one and write the other.
    pub(crate) fn value_and_gradient(&mut self, id: ParameterId) -> (&B::Matrix, &mut B::Matrix) {
        let parameter = &mut self.all[id.0];
        (&parameter.value, &mut parameter.gradient)
    }

    /// The gradients of a parameter and of another one, where there is one.
    pub(crate) fn gradient_and_another(
        &mut self,
        a: ParameterId,
        b: Option<ParameterId>,
    ) -> (&mut B::Matrix, Option<&mut B::Matrix>) {
        let Some(b) = b else { return (self.gradient(a), None) };
        let [a, b] = self.all.get_disjoint_mut([a.0, b.0]).expect("two ids of this network");
        (&mut a.gradient, Some(&mut b.gradient))
    }

    /// In a fixed order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Parameter<B>> {
        self.all.iter()
    }

    /// In a fixed order.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Parameter<B>> {
        self.all.iter_mut()
    }

    /// How many numbers are trained.
    pub fn count(&self) -> usize {
        self.all.iter().map(|p| p.value.rows() * p.value.columns()).sum()
    }

    /// Sets all gradients to 0.
    pub fn clear_gradients(&mut self, backend: &B) {
        for parameter in &mut self.all {
            backend.clear(&mut parameter.gradient);
        }
    }

    /// The Euclidean norm of all gradients together.
    pub fn gradient_norm(&self, backend: &B) -> f64 {
        self.all.iter().map(|p| backend.sum_of_squares(&p.gradient)).sum::<f64>().sqrt()
    }
}
