"""Tiny tokenizers in the files that models ship them in, and the ids that Transformers gives with them.

    python tokenizer_fixtures.py FOLDER

FOLDER/texts.json: texts that tokenizers stumble over. FOLDER/NAME: the files of a model without a
tokenizer.json, and ids.json: for each of the texts AutoTokenizer's ids, special tokens included. The
tokenizers are trained on the invented clauses of examples/demo and a few lines of other scripts.
"""

import contextlib
import io
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import sentencepiece
from tokenizers import ByteLevelBPETokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import AutoTokenizer
from transformers.utils import logging

DEMO = Path(__file__).parents[2] / "examples" / "demo"

SCRIPTS = [
    "Crème brûlée à la carte, naïve façade, Ångström, Ærø, Straße, İstanbul, ﬁnally",
    "我们可以随时终止您的账户。 アカウントを終了する 계정을 종료할 수 있습니다",
    "Мы можем закрыть ваш счёт в любое время. Μπορούμε να κλείσουμε τον λογαριασμό",
    "price: $1,000.50 (50 %) — “as is” ‘quoted’ … e.g. A&B; C/D; #1; x@y.z; ``tick'' '' ``",
]

# What NFKC does, for a few characters: SentencePiece's own table would be 240 kB.
RULES = {
    "\u00a0": " ", "\u3000": " ", "\u2003": " ", "\u200b": " ", "\t": " ", "\n": " ", "\r": " ",
    "ﬁ": "fi", "①": "1", "½": "1⁄2", "…": "...", "™": "TM", "\u212b": "Å", "\u212a": "K", "e\u0301": "é",
    "ｃ": "c", "ａ": "a", "ｎ": "n", "！": "!", "\u007f": "", "\u0001": "", "\u00ad": "",
}

TEXTS = [
    "", " ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\u0085", "\u200b", "\ufeff", "\u0000",
    "We may end your account at any time.",
    " We may end your account at any time. \n",
    "\ufeffWe may end\r\nyour   account\r\n\r\nat\tany time\u2028now\u2029then",
    "WE MAY END YOUR ACCOUNT", "we  may   end    your     account",
    "a\u0000b\u0001c\u0007d\u001be\u007ff\u0080g\u009fh\u00adi\ufffdj\ufffek",
    "\u202ewe may\u202c end \u2066your\u2069 account\u200e\u200f\u061c",
    "e\u0301 é n\u0303 ñ A\u030a Å \u1e9b\u0323 q\u0307\u0323 \u0301alone \u0344",
    "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031e\u0349\u035a\u032f\u031e\u0320\u034dA",
    "e" + "\u0301" * 200,
    "İstanbul ISTANBUL ıspanak Straße STRASSE ẞ ﬁnally ﬂoor ﬃ Ǆ ǆ Σίσυφος ΣΊΣΥΦΟΣ ς ʼn",
    "我们可以随时终止您的账户。", "我们 may 终止 account", "アカウントｱｶｳﾝﾄを終了", "계정을 종료", "𠀀𠀁𪜶 㐀 豈 丽",
    "สวัสดีครับ नमस्ते שָׁלוֹם مَرْحَبًا",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 ☺️ ☺ 🇩🇪 e🙂mail", "price 1️⃣ ① ½ ² ™ © ® № ℡ Ⅷ",
    "ｃａｎ！ ＡＢＣ　１２３",
    "a" * 99, "a" * 100, "a" * 101, "account" * 40, "we " + "z" * 500 + " may", "🙂" * 101,
    "don't can't we'll I'm you're they've he'd '' `` ''quoted`` \u2019s \u201cas is\u201d",
    "a.b,c;d:e!f?g(h)i[j]k{l}m<n>o/p\\q|r~s^t_u-v–w—x…y·z", "...!!!???", "$1,000.50 1,234,567 50% 3.14e-10 0x1F",
    "[CLS] we may [SEP] end [MASK] [PAD] [UNK] x[MASK]y [ MASK ] [mask] [cls]",
    "<s> we may </s> end <mask> <pad> <unk> x<mask>y  <mask>  < mask > <MASK> <s></s>",
    "extra <special> token and  <special>x [NEW] [new] wordynew",
    "a[NEW]b we<special>  may <special> end<none>x",
    "▁we ▁ may▁end ▁▁your Ġaccount Ċ ##end ## #",
    "https://example.org/a?b=c&d=%20#e mailto:x@y.z C:\\path\\file.txt",
    "\u0301", "\u200d", "\ufe0f", "\ud7ff", "\ue000", "\uf8ff", "\uffff", "\U0001f600", "\U000e0001", "\U0010ffff",
    "x\u00a0y\u2000z\u2009u\u202fv\u205fw\u1680q\u180er\u2060s",
    "\u0600\u06dd\u070f\u08e2 ٣٤٥ १२३ ੧੨",
    "\u1100\u1161\u11a8 \uac01 \u1112\u1161\u11ab", "ﷺ ﷽ ㍿ ㏂ ΐ ẛ̣",
    "\x1c\x1d\x1e\x1f \x0b\x0c x\x0by\x0cz",
    "end.\n\n\n  - we\n  - may\n\t* end", "\u00a0we may", "\u3000we  \u2003", "tail spaces   ", "tail newline\n\n",
    "a\u0085\u0085b\u2028\u2028c\u180e\u180ed\u200b\u200be\u00a0\u00a0f",
    "\x1c\x1cg\u3000\u3000h\ufeff\ufeffi\x0b\x0bj \u00a0k",
]


def demo() -> list[str]:
    lines = (DEMO / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines] + SCRIPTS * 4


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MPNET = ["<s>", "<pad>", "</s>", "[UNK]"]


def wordpiece(folder: Path, lowercase: bool, first: list[str] = BERT, last: list[str] = []) -> None:
    """Not by the trainer of WordPiece, whose vocabulary is another each time."""
    normalizer = BertNormalizer(lowercase=lowercase)
    words = Counter(
        word for text in demo() for word, _ in BertPreTokenizer().pre_tokenize_str(normalizer.normalize_str(text))
    )
    characters = sorted({character for word in words for character in word})
    frequent = sorted(words, key=lambda word: (-words[word], word))[:150]
    endings = Counter(word[-n:] for word in words for n in (2, 3) if len(word) > n)
    suffixes = sorted(endings, key=lambda ending: (-endings[ending], ending))[:40]
    vocab = [*first, *characters, *(f"##{c}" for c in characters)]
    vocab += [word for word in frequent if len(word) > 1] + [f"##{suffix}" for suffix in suffixes] + last
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")


def byte_level(folder: Path, specials: list[str]) -> None:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        demo(), vocab_size=420, min_frequency=2, special_tokens=specials, show_progress=False
    )
    trained.save_model(str(folder))


def unigram(path: Path, **options: object) -> None:
    model = io.BytesIO()
    code = lambda text: " ".join(f"{ord(c):X}" for c in text)
    # The model holds the name of the table: a relative one is the same everywhere.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("rules.tsv").write_text("".join(f"{code(a)}\t{code(b)}\n" for a, b in RULES.items()))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(demo()), model_writer=model, model_type="unigram", vocab_size=300, num_threads=1,
            character_coverage=0.99, normalization_rule_tsv="rules.tsv", minloglevel=2, **options,
        )
    path.write_bytes(model.getvalue())


def bert(folder: Path) -> None:
    wordpiece(folder, lowercase=True)


def bert_cased(folder: Path) -> None:
    wordpiece(folder, lowercase=False)
    config = {"do_lower_case": False, "model_max_length": 512, "tokenize_chinese_chars": False}
    write_json(folder / "tokenizer_config.json", config)
    names = ["unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
    values = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]
    write_json(folder / "special_tokens_map.json", dict(zip(names, values)))


def bert_added(folder: Path) -> None:
    wordpiece(folder, lowercase=True)
    config = {
        "do_lower_case": True, "strip_accents": False, "tokenizer_class": "BertTokenizerFast",
        "cls_token": {"__type": "AddedToken", "content": "[CLS]"},
    }
    write_json(folder / "tokenizer_config.json", config)
    mask = {"content": "[MASK]", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    special = {"additional_special_tokens": ["<special>"], "mask_token": mask}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "added_tokens.json", {"[NEW]": 9001, "<special>": 9000, "wordynew": 9002})


def bert_decoder(folder: Path) -> None:
    wordpiece(folder, lowercase=True)
    added = lambda content, **more: {
        "content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True
    } | more
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    config = {
        "added_tokens_decoder": {str(vocab.index(name)): added(name) for name in names}
        | {
            "9000": added("<special>", rstrip=True),
            "9001": added("[NEW]", special=False, normalized=True, single_word=True),
        },
        "cls_token": "[CLS]", "mask_token": "[MASK]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]",
    }
    write_json(folder / "tokenizer_config.json", config)


def mpnet(folder: Path) -> None:
    wordpiece(folder, lowercase=True, first=MPNET, last=["<mask>"])


def mpnet_cased(folder: Path) -> None:
    wordpiece(folder, lowercase=False, first=MPNET, last=["<mask>"])
    config = {"do_lower_case": False, "cls_token": {"__type": "AddedToken", "content": "<s>", "rstrip": True}}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {"additional_special_tokens": ["<special>"]})
    write_json(folder / "added_tokens.json", {"[NEW]": 9001, "<special>": 9000})


def roberta(folder: Path) -> None:
    byte_level(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])


def roberta_prefix(folder: Path) -> None:
    byte_level(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    mask = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": True, "single_word": False}
    config = {
        "add_prefix_space": True, "trim_offsets": True, "mask_token": mask | {"__type": "AddedToken"},
        "extra_special_tokens": [
            mask | {"content": "<special>", "lstrip": False, "rstrip": True, "__type": "AddedToken"},
        ],
    }
    write_json(folder / "tokenizer_config.json", config)


def deberta(folder: Path) -> None:
    byte_level(folder, ["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    write_json(folder / "tokenizer_config.json", {"do_lower_case": False, "vocab_type": "gpt2"})


def albert(folder: Path) -> None:
    unigram(
        folder / "spiece.model", pad_id=0, unk_id=1, bos_id=-1, eos_id=-1,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    )


def albert_cased(folder: Path) -> None:
    albert(folder)
    config = {"do_lower_case": False, "keep_accents": True, "remove_space": True}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {"additional_special_tokens": ["<special>"]})


def big_bird(folder: Path) -> None:
    symbols = [f"<unused{n}>" for n in range(62)] + ["[CLS]", "[SEP]", "[MASK]"]
    unigram(folder / "spiece.model", pad_id=0, eos_id=1, bos_id=2, unk_id=100, control_symbols=symbols)


def big_bird_extra(folder: Path) -> None:
    big_bird(folder)
    config = {
        "extra_special_tokens": ["<special>"], "add_prefix_space": False, "unk_token": "<none>", "mask_token": "[MASK]",
    }
    write_json(folder / "tokenizer_config.json", config)


def xlm_roberta(folder: Path) -> None:
    unigram(folder / "sentencepiece.bpe.model")
    write_json(folder / "special_tokens_map.json", {"extra_special_tokens": ["<special>"]})
    write_json(folder / "added_tokens.json", {"<special>": 9000, "[NEW]": 9001})


def camembert(folder: Path) -> None:
    unigram(folder / "sentencepiece.bpe.model")


def camembert_extra(folder: Path) -> None:
    unigram(folder / "sentencepiece.bpe.model")
    mask = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": True, "single_word": False}
    config = {"add_prefix_space": False, "mask_token": mask | {"__type": "AddedToken"}}
    write_json(folder / "tokenizer_config.json", config)
    special = ["<s>NOTUSED", "</s>NOTUSED", "<special>"]
    write_json(folder / "special_tokens_map.json", {"additional_special_tokens": special})


def deberta_v2(folder: Path) -> None:
    unigram(
        folder / "spm.model", pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]",
        eos_piece="[SEP]", unk_piece="[UNK]", user_defined_symbols=["<special>"],
    )
    write_json(folder / "tokenizer_config.json", {"do_lower_case": False, "vocab_type": "spm"})


def deberta_v2_lower(folder: Path) -> None:
    deberta_v2(folder)
    config = {"do_lower_case": True, "split_by_punct": True, "vocab_type": "spm"}
    write_json(folder / "tokenizer_config.json", config)


MODELS = {
    bert: "bert",
    bert_cased: "bert",
    bert_added: "electra",
    bert_decoder: "distilbert",
    mpnet: "mpnet",
    mpnet_cased: "mpnet",
    roberta: "roberta",
    roberta_prefix: "longformer",
    deberta: "deberta",
    albert: "albert",
    albert_cased: "albert",
    big_bird: "big_bird",
    big_bird_extra: "big_bird",
    xlm_roberta: "xlm-roberta",
    camembert: "camembert",
    camembert_extra: "camembert",
    deberta_v2: "deberta-v2",
    deberta_v2_lower: "deberta-v2",
}


def main() -> None:
    logging.set_verbosity_error()
    root = Path(sys.argv[1]).absolute()
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "texts.json", TEXTS)
    for write, model_type in MODELS.items():
        folder = root / write.__name__
        folder.mkdir(exist_ok=True)
        write_json(folder / "config.json", {"model_type": model_type})
        write(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer(TEXTS)["input_ids"]
        (folder / "ids.json").write_text("[\n" + ",\n".join(map(json.dumps, ids)) + "\n]\n")
        if len(sys.argv) > 2:  # the tokenizer as Transformers builds it, to look at
            value = json.loads(tokenizer.backend_tokenizer.to_str())
            for key in ("vocab", "merges"):
                value["model"].pop(key, None)
            print(folder.name, type(tokenizer).__name__, json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
