//! A SentencePiece model file: pieces with scores, and the table of its normalizer. Of the protocol
//! buffer (`sentencepiece_model.proto`) only the fields that a unigram tokenizer needs are read,
//! straight from the wire format.
//!
//! Refuses models of other kinds (BPE, words, characters): none of the encoders that ship
//! SentencePiece files has one, and Transformers would read their ranks as scores.

/// What is needed of a model file.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub pieces: Vec<Piece>,
    /// The normalizer's table of replacements; empty for none.
    pub charsmap: Vec<u8>,
    pub unk_id: usize,
}

/// A piece of the vocabulary.
#[derive(Debug)]
pub(super) struct Piece {
    pub text: String,
    pub score: f64,
    pub kind: Kind,
}

/// How a piece comes into a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By segmentation; also what SentencePiece calls unknown, unused and byte pieces, which
    /// Transformers does not tell apart.
    Normal,
    /// Never by segmentation, such as `[CLS]`.
    Control,
    /// Whenever it occurs.
    UserDefined,
}

/// Parses a model file; or what is wrong with it.
pub(super) fn parse(bytes: &[u8]) -> Result<Model, String> {
    let mut model = Model::default();
    let mut message = Message(bytes);
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (1, Field::Bytes(piece)) => {
                let index = model.pieces.len();
                let piece = parse_piece(piece).map_err(|e| format!("piece {index}: {e}"))?;
                model.pieces.push(piece);
            }
            (2, Field::Bytes(trainer)) => parse_trainer(trainer, &mut model)?,
            (3, Field::Bytes(normalizer)) => parse_normalizer(normalizer, &mut model)?,
            _ => {}
        }
    }
    if model.pieces.is_empty() {
        return Err("it is no SentencePiece model: it has no pieces".to_owned());
    }
    Ok(model)
}

fn parse_piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    let mut message = Message(bytes);
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (1, Field::Bytes(text)) => {
                piece.text = String::from_utf8(text.to_vec()).map_err(|e| e.to_string())?;
            }
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits).into(),
            (3, Field::Varint(kind)) => {
                piece.kind = match kind {
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    _ => Kind::Normal,
                };
            }
            _ => {}
        }
    }
    if piece.text.is_empty() || !piece.score.is_finite() {
        return Err(format!("its text is {:?} and its score {}", piece.text, piece.score));
    }
    Ok(piece)
}

fn parse_trainer(bytes: &[u8], model: &mut Model) -> Result<(), String> {
    const UNIGRAM: u64 = 1;
    let mut message = Message(bytes);
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (3, Field::Varint(kind)) if kind != UNIGRAM => {
                let name = ["", "", "BPE", "word", "character"];
                let name = name.get(usize::try_from(kind).unwrap_or(0)).unwrap_or(&"");
                return Err(format!("it is a {name} model (type {kind}), not a unigram one"));
            }
            (40, Field::Varint(id)) => {
                model.unk_id = usize::try_from(id).map_err(|e| e.to_string())?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn parse_normalizer(bytes: &[u8], model: &mut Model) -> Result<(), String> {
    let mut message = Message(bytes);
    while let Some((field, value)) = message.next()? {
        if let (2, Field::Bytes(table)) = (field, value) {
            model.charsmap = table.to_vec();
        }
    }
    // Its first number is the length of a trie of u32, for which memory is reserved unseen.
    if let Some((length, rest)) = model.charsmap.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length < 4 || !length.is_multiple_of(4) || length > rest.len() {
            let rest = rest.len();
            return Err(format!("its normalizer says {length} bytes of trie in a table of {rest}"));
        }
    } else if !model.charsmap.is_empty() {
        return Err(format!("its normalizer's table has {} bytes", model.charsmap.len()));
    }
    Ok(())
}

/// The rest of a message.
struct Message<'a>(&'a [u8]);

/// A field's value, by wire type.
enum Field<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Message<'a> {
    /// The next field with its number, or `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(self.take(4)?);
                Field::Fixed32(u32::from_le_bytes(bytes))
            }
            other => return Err(format!("it is no SentencePiece model: wire type {other}")),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("it is no SentencePiece model: a number of more than 64 bits".to_owned())
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let count = usize::try_from(count).ok().filter(|&count| count <= self.0.len());
        let Some(count) = count else {
            return Err("it is no SentencePiece model, or cut: a field exceeds it".to_owned());
        };
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_and_every_cut_is_an_error_or_another_model() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizers/big_bird");
        let whole = std::fs::read(format!("{path}/spiece.model")).expect("a fixture");
        let model = parse(&whole).expect("a model");
        assert_eq!((model.pieces.len(), model.unk_id), (300, 100));
        assert_eq!(model.pieces[65].text, "[CLS]");
        assert_eq!(model.pieces[65].kind, Kind::Control);
        assert!(model.pieces[299].score < -1.0);
        assert!(model.charsmap.len() > 100);
        let mut refused = 0;
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            for change in [0x01, 0x04, 0x80, 0xff] {
                changed[at] = whole[at] ^ change;
                refused += usize::from(parse(&changed).is_err());
            }
            if let Ok(cut) = parse(&whole[..at]) {
                assert!(cut.pieces.len() <= 300);
            }
        }
        assert!(refused > whole.len() / 10, "{refused} of {}", whole.len());
    }
}
