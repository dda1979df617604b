//! Which kind of tokenizer a model folder without `tokenizer.json` has, and from which files it is
//! built. The kind follows from the class that `tokenizer_config.json` or `config.json` names, else
//! from the `model_type`, as in Transformers' AutoTokenizer.

use std::path::Path;

use serde::Deserialize;

use super::{CONFIG, files};
use crate::{Error, Result};

/// Tokenizers that are built from the files that models were published with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// WordPiece.
    Bert,
    /// WordPiece with RoBERTa's special tokens.
    MpNet,
    /// Byte-level BPE.
    Roberta,
    /// GPT-2's byte-level BPE with BERT's special tokens.
    Deberta,
    /// The rest is SentencePiece's unigram.
    Albert,
    BigBird,
    XlmRoberta,
    Camembert,
    DebertaV2,
}

impl Family {
    const ALL: [Family; 9] = [
        Family::Bert,
        Family::MpNet,
        Family::Roberta,
        Family::Deberta,
        Family::Albert,
        Family::BigBird,
        Family::XlmRoberta,
        Family::Camembert,
        Family::DebertaV2,
    ];

    /// The kind of the folder's tokenizer.
    ///
    /// # Errors
    /// A JSON file is damaged, or names a kind that cannot be built.
    pub fn of(folder: &Path) -> Result<Family> {
        #[derive(Default, Deserialize)]
        struct Named {
            model_type: Option<String>,
            tokenizer_class: Option<String>,
        }
        let settings: Named = files::json(&folder.join(files::SETTINGS))?.unwrap_or_default();
        let model: Named = files::json(&folder.join(CONFIG))?.unwrap_or_default();
        let class = settings.tokenizer_class.or(model.tokenizer_class);
        let of_class = class.as_deref().map(|class| class.strip_suffix("Fast").unwrap_or(class));
        let found = match (of_class, &model.model_type) {
            (Some(class), _) => Family::ALL.into_iter().find(|f| f.classes().contains(&class)),
            (None, Some(name)) => {
                Family::ALL.into_iter().find(|f| f.model_types().contains(&name.as_str()))
            }
            (None, None) => None,
        };
        found.ok_or_else(|| {
            let known: Vec<&str> =
                Family::ALL.iter().flat_map(|f| f.model_types()).copied().collect();
            let kind = match (class, model.model_type) {
                (Some(class), _) => format!("one of class {class}"),
                (None, Some(name)) => format!("that of a `{name}` model"),
                (None, None) => "one of an unknown kind".to_owned(),
            };
            Error::NoTokenizer {
                folder: folder.into(),
                problem: format!(
                    "there is no tokenizer.json, and {kind} cannot be built from other files \
                     (only those of {})",
                    known.join(", ")
                ),
            }
        })
    }

    fn classes(self) -> &'static [&'static str] {
        match self {
            Family::Bert => &["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"],
            Family::MpNet => &["MPNetTokenizer"],
            Family::Roberta => &["RobertaTokenizer", "LongformerTokenizer"],
            Family::Deberta => &["DebertaTokenizer"],
            Family::Albert => &["AlbertTokenizer"],
            Family::BigBird => &["BigBirdTokenizer"],
            Family::XlmRoberta => &["XLMRobertaTokenizer"],
            Family::Camembert => &["CamembertTokenizer"],
            Family::DebertaV2 => &["DebertaV2Tokenizer"],
        }
    }

    /// Also what messages call it.
    fn model_types(self) -> &'static [&'static str] {
        match self {
            Family::Bert => &["bert", "distilbert", "electra"],
            Family::MpNet => &["mpnet"],
            Family::Roberta => &["roberta", "longformer"],
            Family::Deberta => &["deberta"],
            Family::Albert => &["albert"],
            Family::BigBird => &["big_bird"],
            Family::XlmRoberta => &["xlm-roberta"],
            Family::Camembert => &["camembert"],
            Family::DebertaV2 => &["deberta-v2"],
        }
    }

    /// The files it is built from, all of which must be there.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Family::Bert | Family::MpNet => &["vocab.txt"],
            Family::Roberta | Family::Deberta => &["vocab.json", "merges.txt"],
            Family::Albert | Family::BigBird => &["spiece.model"],
            Family::XlmRoberta | Family::Camembert => &["sentencepiece.bpe.model"],
            Family::DebertaV2 => &["spm.model"],
        }
    }

    /// The special tokens it has unless its settings name others, in the order in which they are
    /// added to the vocabulary.
    pub fn special_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Family::Bert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Family::MpNet => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "[UNK]"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Family::Roberta | Family::XlmRoberta | Family::Camembert => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Family::Deberta | Family::DebertaV2 => &[
                ("bos_token", "[CLS]"),
                ("eos_token", "[SEP]"),
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Family::Albert => &[
                ("bos_token", "[CLS]"),
                ("eos_token", "[SEP]"),
                ("unk_token", "<unk>"),
                ("sep_token", "[SEP]"),
                ("pad_token", "<pad>"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Family::BigBird => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "[SEP]"),
                ("pad_token", "<pad>"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
        }
    }
}
