"""Tokenizers as models have them, trained on real sentences, and whether ids are those of Transformers.

    python trained_tokenizers.py make DATA FOLDER
    python trained_tokenizers.py compare FOLDER

DATA is a folder of JSON lines with a `text` each. `make` writes FOLDER/texts.jsonl, all of DATA's texts and
those that tokenizers stumble over, and FOLDER/KIND with the files of a tokenizer of up to 5,000 tokens, for every
kind of file there is: those that models were published with, and for each of them the tokenizer.json that
Transformers makes of it; and tokenizer.json by the trainers of `tokenizers`, put together as on the hub.

`compare` holds FOLDER/KIND/ours.jsonl, a line of {"ids": [...]} per text, against AutoTokenizer's ids.
"""

import io
import json
import sys
from pathlib import Path

import sentencepiece
from tokenizers import (
    ByteLevelBPETokenizer, BertWordPieceTokenizer, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
    processors, trainers,
)
from transformers import AutoTokenizer
from transformers.utils import logging

from check_tokens import read
from tokenizer_fixtures import BERT, MPNET, TEXTS, write_json

SIZE = 5000
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


class Writer:
    """Writes the kinds; models that several kinds have in common are trained once."""

    def __init__(self, root: Path, texts: list[str]) -> None:
        self.root, self.texts, self.trained = root, texts, {}

    def kind(self, name: str, model_type: str, files: dict[str, bytes], **settings: object) -> None:
        folder = self.root / name
        folder.mkdir()
        write_json(folder / "config.json", {"model_type": model_type})
        for file, content in files.items():
            (folder / file).write_bytes(content)
        if settings:
            write_json(folder / "tokenizer_config.json", settings)
        if "tokenizer.json" in files:
            return
        whole = self.root / f"{name}-json"
        AutoTokenizer.from_pretrained(folder).save_pretrained(whole)
        write_json(whole / "config.json", {"model_type": model_type})
        for file in files:
            (whole / file).unlink(missing_ok=True)

    def once(self, key: object, train: object) -> object:
        if key not in self.trained:
            self.trained[key] = train()
        return self.trained[key]

    def vocab(self, specials: list[str], last: list[str] = [], **options: bool) -> dict[str, bytes]:
        def train() -> list[str]:
            trained = BertWordPieceTokenizer(**options)
            trained.train_from_iterator(self.texts, vocab_size=SIZE, special_tokens=[], show_progress=False)
            return sorted(trained.get_vocab(), key=trained.get_vocab().get)

        words = self.once(("vocab", *options.items()), train)
        return {"vocab.txt": ("\n".join([*specials, *words, *last]) + "\n").encode()}

    def merges(self, specials: list[str]) -> dict[str, bytes]:
        def train() -> dict[str, bytes]:
            trained = ByteLevelBPETokenizer()
            trained.train_from_iterator(
                self.texts, vocab_size=SIZE, min_frequency=2, special_tokens=specials, show_progress=False
            )
            paths = [Path(path) for path in trained.save_model(str(self.root))]
            files = {path.name: path.read_bytes() for path in paths}
            for path in paths:
                path.unlink()
            return files

        return self.once(("merges", *specials), train)

    def pieces(self, file: str, **options: object) -> dict[str, bytes]:
        """With SentencePiece's own table of characters, which published models have."""
        def train() -> bytes:
            model = io.BytesIO()
            lines = (text.strip() for text in self.texts)
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines, model_writer=model, model_type="unigram", vocab_size=SIZE,
                hard_vocab_limit=False, character_coverage=0.9995, minloglevel=2, **options,
            )
            return model.getvalue()

        return {file: self.once(("pieces", json.dumps(options)), train)}


def trained_json(writer: Writer) -> None:
    """tokenizer.json by the trainers of `tokenizers`, with the parts that those on the hub have."""
    def train(model: object, trainer: object, **parts: object) -> dict[str, bytes]:
        tokenizer = Tokenizer(model)
        for part, value in parts.items():
            setattr(tokenizer, part, value)
        tokenizer.train_from_iterator(writer.texts, trainer)
        return tokenizer

    def files(tokenizer: Tokenizer, first: str, last: str) -> dict[str, bytes]:
        ends = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=ends
        )
        return {"tokenizer.json": tokenizer.to_str().encode()}

    for lower in (True, False):
        trainer = trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=BERT, show_progress=False)
        tokenizer = train(
            models.WordPiece(unk_token="[UNK]"), trainer, normalizer=normalizers.BertNormalizer(lowercase=lower),
            pre_tokenizer=pre_tokenizers.BertPreTokenizer(), decoder=decoders.WordPiece(),
        )
        name = "wordpiece-trained" if lower else "wordpiece-cased-trained"
        writer.kind(name, "bert", files(tokenizer, "[CLS]", "[SEP]"), do_lower_case=lower)

    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=ROBERTA, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = train(models.BPE(), trainer, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False))
    writer.kind("bpe-trained", "roberta", files(tokenizer, "<s>", "</s>"))

    # ModernBERT's: NFC, no prefix, BERT's special tokens, and no class of its own.
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=BERT, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = train(
        models.BPE(), trainer, normalizer=normalizers.NFC(),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    roles = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    writer.kind(
        "bpe-modernbert", "modernbert", files(tokenizer, "[CLS]", "[SEP]"), tokenizer_class="PreTrainedTokenizerFast",
        **roles,
    )

    trainer = trainers.UnigramTrainer(
        vocab_size=SIZE, special_tokens=ROBERTA, unk_token="<unk>", show_progress=False
    )
    tokenizer = train(
        models.Unigram(), trainer,
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]),
        pre_tokenizer=pre_tokenizers.Metaspace(),
    )
    writer.kind(
        "unigram-trained", "xlm-roberta", files(tokenizer, "<s>", "</s>"), tokenizer_class="PreTrainedTokenizerFast",
        **dict(zip(["cls_token", "pad_token", "sep_token", "unk_token", "mask_token"], ROBERTA)),
    )


def make(data: Path, root: Path) -> None:
    sentences = [row["text"] for path in sorted(data.glob("*.jsonl")) for row in read(path)]
    root.mkdir(parents=True)
    lines = (json.dumps({"text": text}) + "\n" for text in sentences + TEXTS)
    (root / "texts.jsonl").write_text("".join(lines))
    writer = Writer(root, sentences)

    writer.kind("bert", "bert", writer.vocab(BERT, lowercase=True))
    cased = writer.vocab(BERT, lowercase=False)
    writer.kind("bert-cased", "bert", cased, do_lower_case=False)
    writer.kind("bert-accents", "distilbert", writer.vocab(BERT, lowercase=True), strip_accents=False)
    writer.kind("bert-cased-no-accents", "electra", cased, do_lower_case=False, strip_accents=True)
    writer.kind("mpnet", "mpnet", writer.vocab(MPNET, ["<mask>"], lowercase=True))
    writer.kind("roberta", "roberta", writer.merges(ROBERTA))
    writer.kind("longformer-prefix", "longformer", writer.merges(ROBERTA), add_prefix_space=True)
    writer.kind("deberta", "deberta", writer.merges(["[PAD]", "[CLS]", "[SEP]", "[UNK]"]))

    ends = {"control_symbols": ["[CLS]", "[SEP]", "[MASK]"], "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
    writer.kind("albert", "albert", writer.pieces("spiece.model", **ends))
    writer.kind(
        "albert-cased", "albert", writer.pieces("spiece.model", **ends), do_lower_case=False, keep_accents=True
    )
    unused = [f"<unused{n}>" for n in range(62)] + ["[CLS]", "[SEP]", "[MASK]"]
    numbers = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 100}
    writer.kind("big_bird", "big_bird", writer.pieces("spiece.model", control_symbols=unused, **numbers))
    writer.kind("xlm-roberta", "xlm-roberta", writer.pieces("sentencepiece.bpe.model"))
    writer.kind("camembert", "camembert", writer.pieces("sentencepiece.bpe.model"))
    ends = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    ends |= {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    writer.kind("deberta-v2", "deberta-v2", writer.pieces("spm.model", **ends), do_lower_case=True)
    writer.kind("deberta-v3", "deberta-v2", writer.pieces("spm.model", **ends), do_lower_case=False)
    trained_json(writer)


def compare(root: Path) -> int:
    texts = [row["text"] for row in read(root / "texts.jsonl")]
    print(f"{'tokenizer':26} {'class':24} {'texts':>7} {'ids':>9} {'differ':>7}")
    failed = 0
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ours = [row["ids"] for row in read(folder / "ours.jsonl")]
        theirs = tokenizer(texts)["input_ids"]
        assert len(ours) == len(theirs)
        wrong = [i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]]
        count = sum(map(len, theirs))
        print(f"{folder.name:26} {type(tokenizer).__name__:24} {len(texts):7} {count:9} {len(wrong):7}")
        for i in wrong[:3]:
            print(f"  {texts[i][:80]!r}\n    ours   {ours[i][:40]}\n    theirs {theirs[i][:40]}")
        failed += bool(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    logging.set_verbosity_error()
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(compare(Path(sys.argv[2])))
