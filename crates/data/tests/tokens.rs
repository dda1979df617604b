//! The tokenizer: ids by hand, truncation, nasty texts, hostile files.

mod common;

use common::{Folder, refused, word_piece};
use data::{Error, Tokenizer};

const PAD_FREE: &[&str] = &["We may ended your account.", "", "zzz"];

fn tokenizer(max_length: usize) -> Result<Tokenizer, Error> {
    Tokenizer::from_file(&Folder::new().file("tokenizer.json", word_piece()), max_length)
}

#[test]
fn ids_carry_special_tokens_and_neither_padding_nor_the_files_truncation() -> Result<(), Error> {
    let encoded = tokenizer(128)?.encode_batch(PAD_FREE)?;
    let ids: Vec<_> = encoded.iter().map(|text| text.ids.as_slice()).collect();
    assert_eq!(ids, [&[2, 4, 5, 6, 7, 8, 9, 10, 3][..], &[2, 3], &[2, 1, 3]]);
    assert_eq!(encoded[0].length, 9);
    assert_eq!(tokenizer(128)?.highest_id(), 12);
    Ok(())
}

#[test]
fn truncation_cuts_the_text_and_keeps_the_special_tokens() -> Result<(), Error> {
    let encoded = tokenizer(5)?.encode_batch(PAD_FREE)?;
    assert_eq!((encoded[0].ids.as_slice(), encoded[0].length), (&[2, 4, 5, 6, 3][..], 9));
    assert_eq!((encoded[1].ids.as_slice(), encoded[1].length), (&[2, 3][..], 2));
    refused(tokenizer(2), &["max_length = 2", "2 special tokens"]);
    refused(tokenizer(0), &["max_length = 0"]);
    Ok(())
}

#[test]
fn the_order_is_kept_and_nasty_texts_pass() -> Result<(), Error> {
    let tokenizer = tokenizer(64)?;
    let many: Vec<String> = (0..500).map(|n| "may ".repeat(n % 7)).collect();
    for (n, encoded) in tokenizer.encode_batch(&many)?.iter().enumerate() {
        assert_eq!(encoded.ids.len(), 2 + n % 7);
    }
    let marks = format!("e{}", "\u{301}".repeat(100_000));
    let long = "account ".repeat(100_000);
    let nasty = ["\0", "\u{202e}we\u{202c}", "\u{feff}", "\r\n", "\u{10ffff}", &marks, &long];
    let encoded = tokenizer.encode_batch(&nasty)?;
    assert_eq!((encoded[6].ids.len(), encoded[6].length), (64, 100_002));
    Ok(())
}

#[test]
fn hostile_tokenizer_files_are_errors() {
    let folder = Folder::new();
    let load = |content: &[u8]| Tokenizer::from_file(&folder.file("t.json", content), 128);
    let whole = word_piece();
    for length in (0..whole.len()).step_by(11) {
        refused(load(&whole.as_bytes()[..length]), &["cannot load the tokenizer", "t.json"]);
    }
    let nested = format!("{{\"model\": {}", "[".repeat(1_000_000));
    let normalizers = format!(
        "{}{}{}",
        "{\"version\": \"1.0\", \"normalizer\": ",
        "{\"type\": \"Sequence\", \"normalizers\": [".repeat(100_000),
        "]}".repeat(100_000)
    );
    for content in ["{}", "[]", "null", "{\"model\": {}}", "\u{fffd}", &nested, &normalizers] {
        refused(load(content.as_bytes()), &["cannot load the tokenizer", "t.json"]);
    }
    let big = whole.replace("\"[CLS]\",", &format!("{}\"[CLS]\",", " ".repeat(64 << 20)));
    refused(load(big.as_bytes()), &["t.json", "more than the limit of 67108864"]);
    refused(Tokenizer::from_file(&folder.0.path().join("none"), 128), &["cannot read", "none"]);
}

#[test]
fn a_text_that_the_vocabulary_cannot_spell_is_an_error_with_its_place() -> Result<(), Error> {
    let folder = Folder::new();
    let broken = word_piece().replace("\"[UNK]\":1,", "");
    let tokenizer = Tokenizer::from_file(&folder.file("t.json", broken), 128)?;
    refused(tokenizer.encode_batch(&["we", "zzz"]), &["text 2"]);

    let mut bare: serde_json::Value = serde_json::from_str(&word_piece()).expect("our own");
    bare["post_processor"].take();
    let tokenizer = Tokenizer::from_file(&folder.file("t.json", bare.to_string()), 128)?;
    refused(tokenizer.encode_batch(&["we", "may", ""]), &["text 3", "gives no tokens"]);
    Ok(())
}
