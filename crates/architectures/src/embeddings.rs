//! Token embeddings: word (+ position) (+ token type), LayerNorm, dropout, and where they are narrower
//! than the encoder a linear layer that widens them (ALBERT, Lan et al. 2019).

use crate::Error;
use crate::backend::{Backend, Shape};
use crate::builder::{Bias, Builder};
use crate::linear::{InputGradient, Linear, LinearSaved, Tensor};
use crate::norm::{LayerNorm, NormSaved};
use crate::parameters::Parameters;
use crate::pass::{Batch, Pass, Site};
use kernels::Dropout;

/// Names behind the encoder's `embeddings` that families choose as they like.
#[derive(Debug)]
pub(crate) struct EmbeddingNames {
    pub(crate) word: &'static str,
    pub(crate) norm: &'static str,
}

impl EmbeddingNames {
    pub(crate) const BERT: EmbeddingNames =
        EmbeddingNames { word: "word_embeddings", norm: "LayerNorm" };
}

/// Sizes and constants of the embeddings.
#[derive(Debug)]
pub(crate) struct EmbeddingSizes {
    /// Rows of the word table.
    pub(crate) words: usize,
    /// Rows of the position table, where there is one.
    pub(crate) positions: Option<usize>,
    /// Rows of the token type table, where there is one.
    pub(crate) token_types: Option<usize>,
    /// E, the width of all tables.
    pub(crate) width: usize,
    /// Row of the position table that position 0 takes.
    pub(crate) first_position: u32,
    /// ε of the LayerNorm.
    pub(crate) eps: f32,
    /// Whether the LayerNorm has one.
    pub(crate) norm_bias: Bias,
    pub(crate) dropout: f32,
}

/// Tables [words, E], [positions, E], [types, E], a LayerNorm, and a layer [H, E] where E is not H.
#[derive(Debug)]
pub(crate) struct Embeddings<B: Backend> {
    word: Tensor<B>,
    position: Option<Tensor<B>>,
    token_type: Option<Tensor<B>>,
    first_position: u32,
    /// Factor on words' vectors, where there is one.
    scale: Option<f32>,
    norm: LayerNorm<B>,
    /// Whether dropout comes before the LayerNorm, not behind it.
    dropout_first: bool,
    dropout: f32,
    site: Site,
    projection: Option<Linear<B>>,
}

/// What forward leaves for backward.
#[derive(Debug)]
pub(crate) struct EmbeddingsSaved<B: Backend> {
    norm: NormSaved<B>,
    /// The projection's input [T, E], where there is one, and what it leaves.
    projection: Option<(B::Matrix, LinearSaved<B>)>,
}

impl<B: Backend> Embeddings<B> {
    /// Embeddings under the encoder's `embeddings`; `projection` is the name of the layer that widens
    /// them and H.
    pub(crate) fn build(
        builder: &mut Builder<'_, B>,
        names: &EmbeddingNames,
        sizes: &EmbeddingSizes,
        projection: Option<(&str, usize)>,
    ) -> Result<Embeddings<B>, Error> {
        let root = builder.family.root;
        let name = |part: &str| format!("{root}.embeddings.{part}");
        let mut table = |part: &str, rows: usize| {
            builder.tensor(&name(&format!("{part}.weight")), &[rows, sizes.width])
        };
        let word = table(names.word, sizes.words)?;
        let position =
            sizes.positions.map(|rows| table("position_embeddings", rows)).transpose()?;
        let token_type =
            sizes.token_types.map(|rows| table("token_type_embeddings", rows)).transpose()?;
        let &EmbeddingSizes { width, eps, norm_bias, .. } = sizes;
        let norm = builder.norm_with(&name(names.norm), width, eps, norm_bias)?;
        let site = builder.site(false);
        let projection = projection
            .map(|(name, out)| builder.linear(&format!("{root}.{name}"), out, sizes.width, false))
            .transpose()?;
        let &EmbeddingSizes { first_position, dropout, .. } = sizes;
        Ok(Embeddings {
            word,
            position,
            token_type,
            first_position,
            scale: None,
            norm,
            dropout_first: false,
            dropout,
            site,
            projection,
        })
    }

    /// The same with words' vectors multiplied by this factor.
    pub(crate) fn rescaled(self, by: f32) -> Embeddings<B> {
        Embeddings { scale: Some(by), ..self }
    }

    /// The same with dropout before the LayerNorm.
    pub(crate) fn dropped_out_first(self) -> Embeddings<B> {
        Embeddings { dropout_first: true, ..self }
    }

    /// Dropout before the LayerNorm and behind it.
    fn dropouts(&self, pass: &Pass) -> [Option<Dropout>; 2] {
        let dropout = pass.dropout(self.dropout, self.site);
        if self.dropout_first { [dropout, None] } else { [None, dropout] }
    }

    /// → [T, H]
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
    ) -> (B::Matrix, EmbeddingsSaved<B>) {
        let word = self.word.value(parameters);
        let mut x = backend.matrix(batch.tokens, word.columns()); // [T, E]
        backend.gather_rows(word, &batch.ids, false, &mut x);
        if let Some(by) = self.scale {
            backend.scale(&mut x, by);
        }
        if let Some(table) = &self.position {
            let positions = backend.shifted(&batch.positions, self.first_position);
            backend.gather_rows(table.value(parameters), &positions, true, &mut x);
        }
        if let Some(table) = &self.token_type {
            backend.gather_rows(table.value(parameters), &batch.token_types, true, &mut x);
        }
        let [before, behind] = self.dropouts(pass);
        let (mut y, norm) = self.norm.forward(backend, parameters, x, None, before);
        if let Some(dropout) = behind {
            y = backend.dropout(&y, dropout);
        }
        match &self.projection {
            Some(projection) => {
                let (wide, saved) = projection.forward(backend, parameters, pass, &y); // [T, H]
                (wide, EmbeddingsSaved { norm, projection: Some((y, saved)) })
            }
            None => (y, EmbeddingsSaved { norm, projection: None }),
        }
    }

    /// Whether anything here is trained; else backward ends above.
    pub(crate) fn is_trained(&self) -> bool {
        self.tables_are_trained() || self.projection.as_ref().is_some_and(Linear::needs_input)
    }

    fn tables_are_trained(&self) -> bool {
        self.word.trained().is_some()
    }

    /// From the gradient of the result [T, H] to those of the tables.
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        pass: &Pass,
        batch: &Batch<B>,
        saved: &EmbeddingsSaved<B>,
        mut dy: B::Matrix,
    ) {
        if let (Some(projection), Some((x, saved))) = (&self.projection, &saved.projection) {
            let mut dx = self.tables_are_trained().then(|| backend.matrix(x.rows(), x.columns())); // [T, E]
            let to_dx = dx.as_mut().map(InputGradient::to);
            projection.backward(backend, parameters, pass, Some(x), saved, &dy, to_dx);
            match dx {
                Some(dx) => dy = dx,
                None => return,
            }
        }
        let [before, behind] = self.dropouts(pass);
        let mut dx = match behind {
            Some(dropout) => backend.dropout(&dy, dropout),
            None => dy,
        };
        if let Some(branch) = self.norm.backward(backend, parameters, &saved.norm, before, &mut dx)
        {
            dx = branch;
        }
        let positions = backend.shifted(&batch.positions, self.first_position);
        let position = self.position.as_ref().map(|table| (table, &positions));
        let token_type = self.token_type.as_ref().map(|table| (table, &batch.token_types));
        for (table, rows) in position.into_iter().chain(token_type) {
            if let Some(id) = table.trained() {
                backend.scatter_add_rows(parameters.gradient(id), rows, &dx);
            }
        }
        if let Some(id) = self.word.trained() {
            if let Some(by) = self.scale {
                backend.scale(&mut dx, by);
            }
            backend.scatter_add_rows(parameters.gradient(id), &batch.ids, &dx);
        }
    }
}
