//! Tensors as views of a storage: a shape, a stride per dimension and an offset, all in numbers.

use super::value::Tensor;
use std::borrow::Cow;

/// Torch's own limit.
pub(super) const DIMENSION_LIMIT: usize = 64;

/// A view that lies within its storage.
#[derive(Debug, PartialEq)]
pub(super) struct Layout {
    pub shape: Vec<usize>,
    /// Zero for dimensions of length 1, whose stride means nothing.
    strides: Vec<usize>,
    offset: usize,
    /// Number of numbers.
    count: usize,
}

impl Layout {
    /// The view that a pickle claims, of a storage of `length` numbers; or what is wrong with it.
    pub fn checked(tensor: &Tensor, length: usize) -> Result<Layout, String> {
        let Tensor { offset, shape, strides, .. } = tensor;
        if shape.len() != strides.len() {
            let (shape, strides) = (shape.len(), strides.len());
            return Err(format!("has {shape} dimensions and {strides} strides"));
        }
        let outside = || {
            format!(
                "has shape {shape:?}, strides {strides:?} and offset {offset}, which do not lie \
                 within a storage of {length} numbers"
            )
        };
        let natural = |numbers: &[i64]| -> Option<Vec<usize>> {
            numbers.iter().map(|&number| usize::try_from(number).ok()).collect()
        };
        let views = (natural(shape), natural(strides), usize::try_from(*offset).ok());
        let (Some(shape), Some(mut strides), Some(offset)) = views else { return Err(outside()) };
        let count = if shape.contains(&0) {
            Some(0)
        } else {
            shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size))
        };
        let count = count.ok_or_else(outside)?;
        for (stride, &size) in strides.iter_mut().zip(&shape) {
            if size == 1 {
                *stride = 0;
            }
        }
        if count > 0 {
            let steps = shape.iter().zip(&strides);
            let last = steps.into_iter().try_fold(offset, |last, (&size, &stride)| {
                last.checked_add((size - 1).checked_mul(stride)?)
            });
            if last.is_none_or(|last| last >= length) {
                return Err(outside());
            }
        }
        Ok(Layout { shape, strides, offset, count })
    }

    /// The view's numbers, row-major; `numbers` are the storage's, `size` bytes each.
    ///
    /// # Errors
    /// What is wrong: the view repeats numbers, so that it may be larger than the file by any
    /// factor.
    pub fn row_major<'a>(&self, numbers: &'a [u8], size: usize) -> Result<Cow<'a, [u8]>, String> {
        if self.count == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let length = numbers.len() / size;
        if self.count > length {
            let (shape, count) = (&self.shape, self.count);
            return Err(format!(
                "repeats the {length} numbers of its storage to {count} in shape {shape:?}"
            ));
        }
        if self.is_row_major() {
            return Ok(Cow::Borrowed(&numbers[self.offset * size..][..self.count * size]));
        }
        let mut data = Vec::with_capacity(self.count * size);
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        for _ in 0..self.count {
            data.extend_from_slice(&numbers[at * size..][..size]);
            for dimension in (0..index.len()).rev() {
                index[dimension] += 1;
                at += self.strides[dimension];
                if index[dimension] < self.shape[dimension] {
                    break;
                }
                at -= self.strides[dimension] * self.shape[dimension];
                index[dimension] = 0;
            }
        }
        Ok(Cow::Owned(data))
    }

    fn is_row_major(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size;
            fits
        })
    }
}
