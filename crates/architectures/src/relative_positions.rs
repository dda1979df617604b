//! Vectors of relative positions, as DeBERTa has them (He et al. 2020, 2021): a table that all layers
//! share, with a row for each distance up to the farthest or for each bucket of distances, and the
//! keys and queries that a layer makes of it. Only rows that the batch's longest sequence reaches are
//! computed, once for all of its sequences.

use crate::Error;
use crate::backend::{Backend, RelativePositions, Shape};
use crate::builder::{Bias, Builder};
use crate::linear::{InputGradient, Linear, LinearSaved, Tensor};
use crate::norm::{LayerNorm, NormSaved};
use crate::parameters::Parameters;
use crate::pass::{Pass, Site};
use std::sync::Arc;

/// Which row of the table a distance has.
#[derive(Clone, Debug)]
pub(crate) struct PositionRows {
    /// Half of the table's rows; this one is that of distance 0.
    span: usize,
    /// How many rows off each distance from 0 on is.
    steps: Arc<[usize]>,
}

impl PositionRows {
    /// For sequences of at most `length` tokens: every distance below `span` has a row of its own.
    pub(crate) fn of_distances(span: usize, length: usize) -> PositionRows {
        PositionRows { span, steps: (0..length).collect() }
    }

    /// For sequences of at most `length` tokens: `2·buckets` rows for distances up to `most`, see
    /// [`bucket`].
    pub(crate) fn of_buckets(buckets: usize, most: usize, length: usize) -> PositionRows {
        let steps = (0..length).map(|distance| bucket(distance, buckets, most)).collect();
        PositionRows { span: buckets, steps }
    }

    /// Rows of the table.
    fn count(&self) -> usize {
        2 * self.span
    }

    /// The rows between sequences' first and last tokens where these are `distance` apart.
    fn row(&self, distance: usize, query_behind_key: bool) -> usize {
        let steps = self.steps[distance];
        match query_behind_key {
            true => (self.span + steps).min(self.count() - 1),
            false => self.span.saturating_sub(steps),
        }
    }

    /// The rows that sequences of at most `longest` tokens meet, in the order of rising distances
    /// key − query, and which of them each of these distances has.
    fn met(&self, longest: usize) -> (Vec<u32>, Vec<u32>) {
        let most = longest.max(1) - 1;
        let (first, last) = (self.row(most, true), self.row(most, false));
        let before = (1..=most).rev().map(|distance| self.row(distance, true));
        let behind = (0..=most).map(|distance| self.row(distance, false));
        let of_distance = before.chain(behind).map(|row| (first - row) as u32);
        ((last as u32..=first as u32).rev().collect(), of_distance.collect())
    }
}

/// How many rows off a distance is where `buckets` rows hold all distances of a direction up to
/// `most`: the nearer half has a row each, the others grow by a factor. Computed in f32 as
/// Transformers does, whose rounding decides at the buckets' ends.
fn bucket(distance: usize, buckets: usize, most: usize) -> usize {
    let half = buckets / 2;
    if distance <= half {
        return distance;
    }
    let ln = |x: f32| f64::from(x).ln() as f32;
    let share = ln(distance as f32 / half as f32) / ln(((most - 1) as f64 / half as f64) as f32);
    (share * (half - 1) as f32).ceil() as usize + half
}

/// What positions are made of.
#[derive(Debug)]
pub(crate) struct PositionLayers<'a> {
    /// Name of the table [rows, H].
    pub(crate) table: &'a str,
    pub(crate) rows: PositionRows,
    /// H.
    pub(crate) hidden: usize,
    /// Name and ε of the table's LayerNorm, where there is one.
    pub(crate) norm: Option<(&'a str, f32)>,
    /// Dropout on the table.
    pub(crate) dropout: f32,
    /// The layer that gives keys, which queries meet; it may be the contents'.
    pub(crate) key: Option<(String, Bias)>,
    /// The layer that gives queries, which keys meet; it may be the contents'.
    pub(crate) query: Option<(String, Bias)>,
}

/// The positions of one layer.
#[derive(Debug)]
pub(crate) struct Positions<B: Backend> {
    table: Tensor<B>,
    rows: PositionRows,
    norm: Option<LayerNorm<B>>,
    dropout: f32,
    site: Site,
    /// Of keys and queries.
    layers: [Option<Linear<B>>; 2],
}

/// What forward leaves for backward, and for attention.
#[derive(Debug)]
pub(crate) struct PositionsSaved<B: Backend> {
    /// Rows of the table that are met [P].
    rows: B::Indices,
    of_distance: B::Indices,
    norm: Option<NormSaved<B>>,
    /// [P, H], behind the dropout, where it is read again.
    x: Option<B::Matrix>,
    /// Keys and queries [P, H].
    projected: [Option<(B::Matrix, LinearSaved<B>)>; 2],
    pass: Pass,
}

impl<B: Backend> PositionsSaved<B> {
    /// What attention reads.
    pub(crate) fn view(&self) -> RelativePositions<'_, B::Matrix, B::Indices> {
        let [keys, queries] =
            self.projected.each_ref().map(|rows| rows.as_ref().map(|(rows, _)| rows));
        RelativePositions { keys, queries, of_distance: &self.of_distance }
    }
}

impl<B: Backend> Positions<B> {
    pub(crate) fn build(
        builder: &mut Builder<'_, B>,
        layers: PositionLayers<'_>,
    ) -> Result<Positions<B>, Error> {
        let PositionLayers { table, rows, hidden, norm, dropout, key, query } = layers;
        let mut layer = |named: Option<(String, Bias)>| {
            let build = |(name, bias): (String, Bias)| {
                builder.linear_with(&name, hidden, hidden, false, bias)
            };
            named.map(build).transpose()
        };
        let layers = [layer(key)?, layer(query)?];
        Ok(Positions {
            table: builder.tensor(table, &[rows.count(), hidden])?,
            rows,
            norm: norm.map(|(name, eps)| builder.norm(name, hidden, eps)).transpose()?,
            dropout,
            site: builder.site(false),
            layers,
        })
    }

    pub(crate) fn is_trained(&self) -> bool {
        self.table.trained().is_some() || self.wanted().contains(&true)
    }

    /// Whether backward reads the gradients of keys and of queries.
    pub(crate) fn wanted(&self) -> [bool; 2] {
        let trained = self.table.trained().is_some();
        self.layers
            .each_ref()
            .map(|layer| layer.as_ref().is_some_and(|layer| trained || layer.needs_input()))
    }

    /// For sequences of at most `longest` tokens.
    pub(crate) fn forward(
        &self,
        backend: &B,
        parameters: &Parameters<B>,
        pass: &Pass,
        longest: usize,
    ) -> PositionsSaved<B> {
        let (rows, of_distance) = self.rows.met(longest);
        // A row draws the same mask in every micro-batch.
        let first = self.rows.count() as u32 - 1 - rows[0];
        let pass = Pass { first_token: first, ..*pass };
        let table = self.table.value(parameters);
        let mut x = backend.matrix(rows.len(), table.columns()); // [P, H]
        let rows = backend.indices(rows);
        backend.gather_rows(table, &rows, false, &mut x);
        let norm = match &self.norm {
            Some(norm) => {
                let (y, saved) = norm.forward(backend, parameters, x, None, None);
                x = y;
                Some(saved)
            }
            None => None,
        };
        if let Some(dropout) = pass.dropout(self.dropout, self.site) {
            x = backend.dropout(&x, dropout);
        }
        let projected = self
            .layers
            .each_ref()
            .map(|layer| layer.as_ref().map(|layer| layer.forward(backend, parameters, &pass, &x)));
        let x = self.is_trained().then_some(x);
        let of_distance = backend.indices(of_distance);
        PositionsSaved { rows, of_distance, norm, x, projected, pass }
    }

    /// From the gradients of keys and queries [P, H], where they are [`wanted`](Self::wanted).
    pub(crate) fn backward(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        saved: PositionsSaved<B>,
        gradients: [Option<B::Matrix>; 2],
    ) {
        let PositionsSaved { rows, norm, x, projected, pass, .. } = saved;
        let Some(x) = x else { return };
        let table = self.table.trained();
        let mut dx = table.map(|_| backend.zeros(x.rows(), x.columns())); // [P, H]
        for ((layer, projected), dy) in self.layers.iter().zip(projected).zip(gradients) {
            if let (Some(layer), Some((_, saved)), Some(dy)) = (layer, projected, dy) {
                let to_dx = dx.as_mut().map(InputGradient::added_to);
                layer.backward(backend, parameters, &pass, Some(&x), &saved, &dy, to_dx);
            }
        }
        let (Some(table), Some(mut dx)) = (table, dx) else { return };
        if let Some(dropout) = pass.dropout(self.dropout, self.site) {
            dx = backend.dropout(&dx, dropout);
        }
        if let Some((norm, saved)) = self.norm.as_ref().zip(norm) {
            norm.backward(backend, parameters, &saved, None, &mut dx);
        }
        backend.scatter_add_rows(parameters.gradient(table), &rows, &dx);
    }
}

#[cfg(test)]
mod tests {
    use super::{PositionRows, bucket};

    #[test]
    fn rows_are_met_in_the_order_of_keys() {
        let rows = PositionRows::of_distances(3, 9);
        // Distances −1, 0 and 1, of which the first is that of a key before its query.
        assert_eq!(rows.met(2), (vec![4, 3, 2], vec![0, 1, 2]));
        // The table ends at distance −2, and at distance 3.
        assert_eq!(rows.met(5), (vec![5, 4, 3, 2, 1, 0], vec![0, 0, 0, 1, 2, 3, 4, 5, 5]));
        assert_eq!(rows.met(1), (vec![3], vec![0]));
    }

    #[test]
    fn buckets_are_those_of_transformers() {
        // The first distance of each bucket beyond the nearer half, from `make_log_bucket_position`.
        let wide = vec![17, 18, 20, 22, 24, 26, 28, 31, 34, 37, 40, 44, 48, 53, 58, 64];
        for (buckets, most, expected) in
            [(16, 70, vec![9, 11, 15, 21, 28, 38, 51, 70]), (32, 64, wide)]
        {
            let half = buckets / 2;
            let found: Vec<usize> = (half..most)
                .filter(|&d| bucket(d + 1, buckets, most) > bucket(d, buckets, most))
                .map(|d| d + 1)
                .collect();
            assert_eq!(found, expected, "{buckets} of {most}");
            assert!((0..=half).all(|d| bucket(d, buckets, most) == d));
        }
    }
}
