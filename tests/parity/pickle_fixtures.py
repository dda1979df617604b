"""What torch.save makes of tensors, in both of its containers.

    python pickle_fixtures.py FOLDER

FOLDER/zip.bin, FOLDER/legacy.bin: one dictionary of tensors of every kind a state dictionary holds, and
    FOLDER/expected.safetensors with the same tensors, contiguous, in the types they have.
FOLDER/model: a tiny BERT as Transformers writes it today; FOLDER/old: the same as it was published in
    2019 (legacy stream, gamma and beta, a pretraining head); FOLDER/sharded: the same in two shards.
FOLDER/{longformer,big_bird,deberta,deberta_v2}: tiny ones as they were published, with the heads that they were pretrained
    with, for the vocabularies among the fixtures of tokenizers.
FOLDER/corpus: pickles that do what no file of weights may do, as CPython writes them.
"""

import json
import os
import pickle
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    BigBirdConfig,
    BigBirdForPreTraining,
    DebertaConfig,
    DebertaForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    LongformerConfig,
    LongformerForMaskedLM,
)


def every_kind() -> OrderedDict:
    shared = torch.randn(5, 7)
    cube = torch.randn(3, 4, 5)
    tensors = OrderedDict(
        float=torch.randn(4, 6),
        half=torch.randn(3, 5).half(),
        bfloat16=torch.randn(3, 5).bfloat16(),
        double=torch.randn(3, 5).double(),
        long=torch.randint(-9, 9, (4,)),
        int=torch.randint(-9, 9, (4,)).int(),
        short=torch.randint(-9, 9, (4,)).short(),
        char=torch.randint(-9, 9, (4,)).char(),
        byte=torch.randint(0, 9, (4,)).byte(),
        bool=torch.tensor([True, False, True]),
        shared=shared,
        tied=shared,
        transposed=shared.t(),
        rows=shared[1:3],
        columns=shared[:, 2:6],
        every_other=shared[::2, ::3],
        permuted=cube.permute(2, 0, 1),
        cube=cube,
        half_transposed=torch.randn(4, 3).half().t(),
        parameter=torch.nn.Parameter(torch.randn(3, 3)),
        scalar=torch.tensor(2.5),
        empty=torch.empty(0, 4),
        one_row=torch.arange(6.0).expand(1, -1),
    )
    tensors["epoch"] = 7  # a value that is no tensor
    tensors._metadata = OrderedDict({"": {"version": 1}})
    return tensors


def save(tensors: OrderedDict, path: Path, legacy: bool = False) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)


def old_name(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def models(folder: Path) -> None:
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=16,
    )
    pretrained = BertForPreTraining(config)
    for parameter in pretrained.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    bare = pretrained.bert
    for name in ("model", "old", "sharded"):
        (folder / name).mkdir(exist_ok=True)
        config.architectures = ["BertModel"]
        (folder / name / "config.json").write_text(config.to_json_string())
    save_file(bare.state_dict(), folder / "model" / "model.safetensors", {"format": "pt"})

    old = OrderedDict((old_name(name), tensor) for name, tensor in pretrained.state_dict().items())
    old["bert.embeddings.position_ids"] = torch.arange(16).expand(1, -1)
    save(old, folder / "old" / "pytorch_model.bin", legacy=True)

    names = list(bare.state_dict())
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"pytorch_model-{number:05}-of-00002.bin"
        save(OrderedDict((name, bare.state_dict()[name]) for name in part), folder / "sharded" / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "sharded" / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1))

    for name in ("old", "sharded"):
        loaded = BertModel.from_pretrained(folder / name).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in bare.state_dict().items()), name


def published_models(folder: Path) -> None:
    torch.manual_seed(6)
    sizes = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)
    longformer = LongformerForMaskedLM(LongformerConfig(
        **sizes, vocab_size=420, attention_window=8, max_position_embeddings=90, type_vocab_size=1, layer_norm_eps=1e-5,
    ))
    big_bird = BigBirdForPreTraining(BigBirdConfig(
        **sizes, vocab_size=300, block_size=4, num_random_blocks=1, max_position_embeddings=128,
    ))
    # As the small model of version 1 and those of version 3 are, down to the latter's float16.
    positions = dict(
        relative_attention=True, pos_att_type="c2p|p2c", position_biased_input=False, type_vocab_size=0,
        max_position_embeddings=64, legacy=False,
    )
    deberta = DebertaForMaskedLM(DebertaConfig(**sizes, **positions, vocab_size=424))
    deberta_v2 = DebertaV2ForMaskedLM(DebertaV2Config(
        **sizes, **positions, vocab_size=308, position_buckets=16, norm_rel_ebd="layer_norm", share_att_key=True,
    )).half()
    models = dict(longformer=longformer, big_bird=big_bird, deberta=deberta, deberta_v2=deberta_v2)
    for name, model in models.items():
        (folder / name).mkdir(exist_ok=True)
        # Those of DeBERTa are published without.
        if not name.startswith("deberta"):
            model.config.architectures = [type(model).__name__]
        (folder / name / "config.json").write_text(model.config.to_json_string())
        save(model.state_dict(), folder / name / "pytorch_model.bin", legacy=name == "big_bird")


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def corpus(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    nested = []
    for _ in range(100):
        nested = [nested]
    laughs = ["ha"] * 10
    for _ in range(9):
        laughs = [laughs] * 10
    objects = {
        "system": Calls(os.system, "touch pickle-was-run"),
        "eval": Calls(eval, "open('pickle-was-run', 'w')"),
        "module": Calls(__import__, "antigravity"),
        "attribute": Calls(getattr, "x", "__class__"),
        "in_weights": {"weight": Calls(os.system, "touch pickle-was-run")},
        "nested": nested,
        "laughs": laughs,
        "set": {1, 2},
        "float": {"weight": 1.5},
        "long": {"weight": 1 << 4000},
        "bytes": {"weight": b"\x00" * 40},
    }
    for name, value in objects.items():
        for protocol in (0, 2, 4):
            (folder / f"{name}_{protocol}.pickle").write_bytes(pickle.dumps(value, protocol))


def main() -> None:
    torch.manual_seed(5)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    tensors = every_kind()
    save(tensors, folder / "zip.bin")
    save(tensors, folder / "legacy.bin", legacy=True)
    plain = {k: v.detach().contiguous().clone() for k, v in tensors.items() if torch.is_tensor(v)}
    save_file(plain, folder / "expected.safetensors")
    models(folder)
    published_models(folder)
    shutil.rmtree(folder / "corpus", ignore_errors=True)
    corpus(folder / "corpus")


if __name__ == "__main__":
    main()
