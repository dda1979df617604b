//! Model files: what is written is read, and nothing else is.

use std::collections::HashMap;
use std::path::Path;

use linear::{Error, Labels, Model, SvmConfig, VectorizerConfig};
use safetensors::tensor::{Dtype, TensorView};

const HEADER: &str = r#"{"version":1,"task":{"multi-label":2},"vectorizer":{"stop_words":"nltk","ngram_range":[1,2],"min_df":1,"max_features":null}}"#;

fn model() -> Model {
    let texts = ["ab cd", "cd ef", "ef ab cd"];
    let labels = Labels::MultiLabel(vec![vec![true, false], vec![false, true], vec![true, true]]);
    let vectorizer =
        VectorizerConfig { ngram_range: (1, 2), min_df: 1, ..VectorizerConfig::default() };
    Model::fit(&texts, &labels, &vectorizer, &SvmConfig::default()).expect("a small fit").0
}

/// Type, shape and bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// The tensors of a valid file: three terms, two outputs.
fn tensors() -> HashMap<&'static str, Tensor> {
    let floats =
        |numbers: &[f64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    HashMap::from([
        ("terms", (Dtype::U8, vec![12], b"ab\nab cd\ncd\n".to_vec())),
        ("idf", (Dtype::F64, vec![3], floats(&[1.0, 1.5, 2.0]))),
        ("weight", (Dtype::F64, vec![3, 2], floats(&[0.5, -0.5, 0.25, 0.0, 1.0, -1.0]))),
        ("intercept", (Dtype::F64, vec![2], floats(&[0.1, -0.1]))),
    ])
}

/// Loads a file of these parts; gives the reason of its refusal.
fn refusal(header: &str, tensors: &HashMap<&str, Tensor>) -> Option<String> {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (*name, TensorView::new(*dtype, shape.clone(), data).expect("a consistent tensor"))
    });
    let metadata = HashMap::from([("linear".to_owned(), header.to_owned())]);
    let file = safetensors::serialize(views, Some(metadata)).expect("consistent tensors");
    match load(&file) {
        Ok(_) => None,
        Err(Error::File { reason, .. }) => Some(reason),
        Err(other) => panic!("{other}"),
    }
}

fn load(file: &[u8]) -> linear::Result<Model> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    durable::write(&path, file).expect("it can be written");
    Model::load(&path)
}

#[test]
fn a_saved_model_is_loaded_to_the_bit_and_saved_to_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let model = model();
    model.save(&one).expect("it can be saved");
    let loaded = Model::load(&one).expect("it can be loaded");
    assert_eq!(loaded, model);
    loaded.save(&two).expect("it can be saved");
    let bytes = std::fs::read(&one).expect("it was written");
    assert_eq!(bytes, std::fs::read(&two).expect("it was written"));
    assert!(matches!(model.save(Path::new("/no/such/folder/model")), Err(Error::Write(_))));
}

#[test]
fn lying_headers_are_refused() {
    assert_eq!(refusal(HEADER, &tensors()), None);
    let cases = [
        ("\"version\":1", "\"version\":2", "it is of version 2"),
        ("\"version\":1", "\"version\":1,\"more\":1", "unknown field `more`"),
        ("\"multi-label\":2", "\"multi-label\":0", "it has 0 labels"),
        ("\"multi-label\":2", "\"classes\":1", "it has 1 classes"),
        ("\"multi-label\":2", "\"multi-label\":3", "`weight` is F64 [3, 2], not F64 [3, 3]"),
        ("\"multi-label\":2", "\"classes\":2", "`weight` is F64 [3, 2], not F64 [3, 1]"),
        ("\"multi-label\":2", "\"multi-label\":18446744073709551615", "not F64"),
        ("[1,2]", "[1,1]", "\"ab cd\" is no n-gram of 1 to 1 tokens"),
        ("[1,2]", "[2,1]", "ngram_range is 2 to 1"),
        ("[1,2]", "[0,2]", "ngram_range is 0 to 2"),
        ("\"min_df\":1", "\"min_df\":0", "min_df is 0"),
        ("null", "0", "max_features is 0"),
        ("nltk", "welsh", "unknown variant `welsh`"),
        ("{\"version\"", "[[[{\"version\"", "expected"),
    ];
    for (old, new, expected) in cases {
        let reason = refusal(&HEADER.replace(old, new), &tensors()).expect(new);
        assert!(reason.contains(expected), "{new}: {reason}");
    }
    let nested = "[".repeat(100_000);
    assert!(refusal(&nested, &tensors()).is_some());
}

#[test]
fn tensors_that_no_fit_writes_are_refused() {
    let bits = |number: f64| number.to_le_bytes();
    let change = |name: &'static str, change: &dyn Fn(&mut Tensor)| {
        let mut tensors = tensors();
        change(tensors.get_mut(name).expect("it is there"));
        refusal(HEADER, &tensors).unwrap_or_default()
    };
    let terms = |text: &'static str| {
        change("terms", &|tensor| *tensor = (Dtype::U8, vec![text.len()], text.into()))
    };
    let number = |name, at: usize, number| {
        change(name, &|tensor| tensor.2[at * 8..][..8].copy_from_slice(&bits(number)))
    };
    let cases = [
        (number("weight", 3, f64::NAN), "`weight` holds NaN at 3"),
        (number("intercept", 1, f64::INFINITY), "`intercept` holds inf at 1"),
        (number("idf", 0, f64::NEG_INFINITY), "`idf` holds -inf at 0"),
        (number("idf", 2, 0.0), "`idf` holds 0"),
        (change("weight", &|tensor| tensor.1 = vec![2, 3]), "`weight` is F64 [2, 3]"),
        (change("weight", &|tensor| tensor.0 = Dtype::I64), "`weight` is I64 [3, 2]"),
        (change("terms", &|tensor| tensor.0 = Dtype::I8), "`terms` is of type I8"),
        (change("terms", &|tensor| tensor.2[0] = 0xFF), "`terms`: invalid utf-8"),
        (terms("ab\ncd\nab cd\n"), "\"cd\" comes before \"ab cd\""),
        (terms("ab\nab\ncd\n"), "\"ab\" comes before \"ab\""),
        (terms("ab\nab  cd\ncd\n"), "\"ab  cd\" is no n-gram"),
        (terms("\nab cd\ncd\n"), "\"\" is no n-gram"),
        (terms("ab\nab cd\ncd"), "no line feed at its end"),
        (terms("ab\nab cd\n"), "`idf` is F64 [3], not F64 [2]"),
    ];
    for (reason, expected) in cases {
        assert!(reason.contains(expected), "{expected}: {reason:?}");
    }
    for name in ["terms", "idf", "weight", "intercept"] {
        let mut tensors = tensors();
        tensors.remove(name);
        let reason = refusal(HEADER, &tensors).expect(name);
        assert!(reason.contains(name), "{reason}");
    }
}

#[test]
fn what_is_no_file_or_too_large_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing");
    assert!(matches!(Model::load(&missing), Err(Error::Read { path, .. }) if path == missing));
    assert!(matches!(Model::load(folder.path()), Err(Error::Read { .. })));

    // A file without blocks, so that nothing is written.
    let large = tempfile::NamedTempFile::new_in(folder.path()).expect("a file");
    large.as_file().set_len((2 << 30) + 1).expect("it can be sparse");
    match Model::load(large.path()) {
        Err(Error::TooLarge { size, limit, .. }) => assert_eq!(size, limit + 1),
        other => panic!("{other:?}"),
    }
    let error = load(b"not a model").expect_err("it is refused");
    assert!(error.to_string().contains("is not a linear model"), "{error}");
}
