"""Writes the golden fixtures of crates/architectures/tests/fixtures from Transformers and PEFT.

    python fixtures.py OUT_DIR

Everything is computed in float64 and stored as F32: the files hold the exact value, not one
library's rounding (but for ModernBERT, whose rotary positions and softmax Transformers rounds to float32, and DeBERTa's first version, whose LayerNorms it does). The same case is computed again in float32 and refused if Transformers itself
strays from the stored value further than the tolerance the Rust tests grant (1e-4); so a fixture
never asks more of us than it asks of the oracle.

Sources: the sequence classifiers of transformers named in FAMILIES (eager attention), peft LoraConfig, torch CrossEntropyLoss, AdamW and clip_grad_norm_, and the weight-decay
rule of the Transformers Trainer. Dropout is zero throughout. File formats: see README.md.
"""

import argparse
import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AlbertModel,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BigBirdConfig,
    BigBirdForSequenceClassification,
    BigBirdModel,
    CamembertConfig,
    CamembertForSequenceClassification,
    CamembertModel,
    DebertaConfig,
    DebertaForSequenceClassification,
    DebertaModel,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    ElectraConfig,
    ElectraForSequenceClassification,
    ElectraModel,
    LongformerConfig,
    LongformerForSequenceClassification,
    LongformerModel,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    ModernBertModel,
    MPNetConfig,
    MPNetForSequenceClassification,
    MPNetModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention
from transformers.trainer_pt_utils import get_parameter_names
from transformers.utils import logging

TOLERANCE = 1e-4
STEPS = 10
LABELS = ["fair", "unfair", "unclear"]
LENGTHS = [17, 2, 33, 70, 5, 24, 9]  # 70 is the longest that most families can hold

QUERY_VALUE = dict(r=4, alpha=8, target_modules=["query", "value"], use_rslora=False)
ALL_LINEAR = dict(r=3, alpha=5, target_modules="all-linear", use_rslora=True)
# Our keyword for what FAMILIES calls query_value.
DEFAULT = dict(r=2, alpha=3, target_modules="query-value", use_rslora=False)

# "model" is the bare encoder, whose head (and for RoBERTa its pooling layer) comes as init.<name>.
CASES = [
    dict(name="full_single", checkpoint="model", method="full", packed=False),
    dict(name="full_packed", checkpoint="classifier", method="full", packed=True),
    dict(name="full_weighted_clipped", checkpoint="classifier", method="full", packed=True,
         class_weights=[0.4, 1.0, 2.5], max_grad_norm=2.0),
    dict(name="lora_packed", checkpoint="classifier", method="lora", packed=True, lora=QUERY_VALUE),
    dict(name="lora_all_linear_weighted", checkpoint="model", method="lora", packed=True, lora=ALL_LINEAR,
         class_weights=[0.4, 1.0, 2.5]),
    dict(name="lora_single", checkpoint="model", method="lora", packed=False, lora=QUERY_VALUE),
]
# Of families that share most with those two: what is their own, no larger than that needs.
FEWER_CASES = [
    dict(name="full_packed", checkpoint="classifier", method="full", packed=True),
    dict(name="full_single", checkpoint="model", method="full", packed=False),
    dict(name="lora_packed", checkpoint="classifier", method="lora", packed=True, lora=DEFAULT),
    dict(name="lora_all_linear_single", checkpoint="model", method="lora", packed=False, lora=ALL_LINEAR),
]
# Any number of labels per row: as many targets of 0 and 1 as labels.
TARGETS = [[0, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]]
MULTI_LABEL = dict(name="full_multi_label", checkpoint="classifier", method="full", packed=True, targets=TARGETS)
MULTI_LABEL_WEIGHTED = dict(
    name="lora_multi_label_weighted", checkpoint="model", method="lora", packed=True, lora=QUERY_VALUE,
    targets=TARGETS, class_weights=[0.7, 5.0, 2.0],
)
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
SMALLER = dict(hidden_size=12, num_attention_heads=2, intermediate_size=16)
TINY_MODERNBERT = dict(
    hidden_size=24, num_attention_heads=3, intermediate_size=20, max_position_embeddings=160, vocab_size=46,
    pad_token_id=0, bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2,
)
SMALL = dict(hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=36)
TINY_DEBERTA = dict(
    hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=22, vocab_size=40,
    max_position_embeddings=70, relative_attention=True,
)

FAMILIES = {
    "albert": dict(
        seed=31,
        first_id=4,
        # Four layers in two groups, of which the first is used twice.
        config=AlbertConfig(
            hidden_size=16, num_attention_heads=2, num_hidden_layers=3, intermediate_size=26,
            num_hidden_groups=2, inner_group_num=2, embedding_size=10,
            vocab_size=61, max_position_embeddings=70, type_vocab_size=2, pad_token_id=0,
        ),
        bare=AlbertModel,
        full=AlbertForSequenceClassification,
        modules_to_save=["classifier", "pooler"],
        cases=FEWER_CASES,
        adapter=ALL_LINEAR,
    ),
    "bert": dict(
        seed=11,
        first_id=5,  # 0 is the padding
        config=BertConfig(
            vocab_size=120, hidden_size=40, num_hidden_layers=3, num_attention_heads=4, intermediate_size=72,
            max_position_embeddings=70, type_vocab_size=2, pad_token_id=0,
        ),
        bare=BertModel,
        full=BertForSequenceClassification,
        modules_to_save=["classifier", "pooler"],
        cases=CASES + [MULTI_LABEL],
        adapter=QUERY_VALUE,
    ),
    # Sequences of up to 27 tokens see all of themselves; longer ones are cut into blocks of 3.
    "big_bird": dict(
        seed=79,
        first_id=4,
        config=BigBirdConfig(
            **SMALLER, **NO_DROPOUT, num_hidden_layers=3, block_size=3, num_random_blocks=2, vocab_size=40,
            sep_token_id=3, max_position_embeddings=49, type_vocab_size=2,
        ),
        bare=BigBirdModel,
        full=BigBirdForSequenceClassification,
        modules_to_save=["classifier"],
        lengths=[1, 26, 27, 28, 29, 30, 31, 45, 46, 47, 48],
        single=38,
        padded=False,
        training=True,
        cases=FEWER_CASES,
        adapter=ALL_LINEAR,
        adapter_lengths=[6, 31, 2, 48],
    ),
    "big_bird_dense": dict(
        seed=83,
        first_id=4,
        config=BigBirdConfig(
            **SMALLER, **NO_DROPOUT, num_hidden_layers=2, attention_type="original_full", vocab_size=40, sep_token_id=3,
            max_position_embeddings=70, type_vocab_size=1, rescale_embeddings=True, use_bias=False, hidden_act="relu",
        ),
        bare=BigBirdModel,
        full=BigBirdForSequenceClassification,
        modules_to_save=["classifier"],
        cases=FEWER_CASES[:1],
        adapter=DEFAULT,
    ),
    # The published blocks, at lengths that are drawn for in either way.
    "big_bird_long": dict(
        seed=89,
        first_id=4,
        config=BigBirdConfig(
            hidden_size=8, num_attention_heads=2, intermediate_size=8, **NO_DROPOUT, num_hidden_layers=2,
            vocab_size=20, sep_token_id=3, max_position_embeddings=1024, type_vocab_size=1,
        ),
        bare=BigBirdModel,
        full=BigBirdForSequenceClassification,
        modules_to_save=["classifier"],
        lengths=[1020, 705, 704],
        padded=False,
        training=True,
        cases=FEWER_CASES[2:3],
        adapter=DEFAULT,
        adapter_lengths=[767],
    ),
    "camembert": dict(
        seed=37,
        first_id=5,
        config=CamembertConfig(
            **SMALL, vocab_size=50, max_position_embeddings=72, type_vocab_size=1, layer_norm_eps=1e-5,
            hidden_act="relu",
        ),
        bare=lambda config: CamembertModel(config, add_pooling_layer=False),
        full=CamembertForSequenceClassification,
        modules_to_save=["classifier"],
        cases=FEWER_CASES[:1],
        adapter=DEFAULT,
    ),
    "deberta": dict(
        seed=113,
        first_id=4,
        config=DebertaConfig(
            **TINY_DEBERTA, pos_att_type="c2p|p2c", max_relative_positions=16, position_biased_input=True,
            type_vocab_size=2,
        ),
        bare=DebertaModel,
        full=DebertaForSequenceClassification,
        modules_to_save=["classifier", "pooler"],
        query_value=["in_proj"],
        lengths=[17, 2, 16, 70, 1, 15, 33],  # about the farthest position, and blocks of queries
        cases=FEWER_CASES,
        adapter=DEFAULT,
    ),
    "deberta_c2p": dict(
        seed=101,
        first_id=4,
        # As published, but for the one kind of positions.
        config=DebertaConfig(**TINY_DEBERTA, pos_att_type="c2p", position_biased_input=False),
        bare=DebertaModel,
        full=DebertaForSequenceClassification,
        modules_to_save=["classifier", "pooler"],
        query_value=["in_proj"],
        cases=FEWER_CASES[:1],
        adapter=ALL_LINEAR,
    ),
    "deberta_v2": dict(
        seed=103,
        first_id=4,
        # As version 3: positions in buckets, which share the contents' keys and queries.
        config=DebertaV2Config(
            **TINY_DEBERTA, pos_att_type="p2c|c2p", position_buckets=16, share_att_key=True,
            norm_rel_ebd="layer_norm", position_biased_input=False,
        ),
        bare=DebertaV2Model,
        full=DebertaV2ForSequenceClassification,
        modules_to_save=["classifier", "pooler"],
        query_value=["query_proj", "value_proj"],
        lengths=[9, 2, 8, 70, 1, 7, 33],  # about the last bucket of one distance
        cases=FEWER_CASES,
        adapter=DEFAULT,
    ),
    "deberta_v2_conv": dict(
        seed=107,
        first_id=4,
        # As version 2's largest: a convolution behind the first layer; and all that version 3 lacks.
        config=DebertaV2Config(
            **TINY_DEBERTA, pos_att_type=["p2c", "c2p"], conv_kernel_size=3, conv_act="tanh",
            share_att_key=False, max_relative_positions=20, position_biased_input=True, type_vocab_size=2,
            pooler_hidden_act="relu",
        ),
        bare=DebertaV2Model,
        full=DebertaV2ForSequenceClassification,
        modules_to_save=["classifier", "pooler"],
        query_value=["query_proj", "value_proj"],
        lengths=[21, 2, 20, 70, 1, 19, 33],
        cases=FEWER_CASES,
        adapter=ALL_LINEAR,
    ),
    "deberta_v2_p2c": dict(
        seed=109,
        first_id=4,
        config=DebertaV2Config(
            **TINY_DEBERTA, pos_att_type="p2c", position_buckets=32, max_relative_positions=64, conv_kernel_size=5,
            conv_act="gelu", share_att_key=False, norm_rel_ebd="layer_norm", position_biased_input=False,
        ),
        bare=DebertaV2Model,
        full=DebertaV2ForSequenceClassification,
        modules_to_save=["classifier", "pooler"],
        query_value=["query_proj", "value_proj"],
        cases=FEWER_CASES[:1],
        adapter=DEFAULT,
    ),
    "distilbert": dict(
        seed=61,
        first_id=5,
        config=DistilBertConfig(
            vocab_size=60, dim=24, n_layers=2, n_heads=3, hidden_dim=36, max_position_embeddings=70, pad_token_id=0,
        ),
        bare=DistilBertModel,
        full=DistilBertForSequenceClassification,
        modules_to_save=["classifier", "pre_classifier"],
        query_value=["q_lin", "v_lin"],
        cases=FEWER_CASES,
        adapter=DEFAULT,
    ),
    "electra": dict(
        seed=71,
        first_id=5,
        config=ElectraConfig(
            **SMALL, embedding_size=10, vocab_size=62, max_position_embeddings=70, type_vocab_size=2, pad_token_id=0,
        ),
        bare=ElectraModel,
        full=ElectraForSequenceClassification,
        modules_to_save=["classifier"],
        cases=FEWER_CASES,
        adapter=ALL_LINEAR,
    ),
    "longformer": dict(
        seed=73,
        first_id=4,
        # The window of the last layer is not used: the head reads the global token alone.
        config=LongformerConfig(
            **SMALLER, num_hidden_layers=3, attention_window=[4, 8, 4], vocab_size=40, max_position_embeddings=72,
            type_vocab_size=1, layer_norm_eps=1e-5,
        ),
        bare=lambda config: LongformerModel(config, add_pooling_layer=False),
        full=LongformerForSequenceClassification,
        modules_to_save=["classifier"],
        lengths=[*range(1, 14), 70],  # around every multiple of a window, and far beyond
        idle=r"layer\.2\.attention\.self\.(query|key|value)\.",
        cases=FEWER_CASES,
        adapter=ALL_LINEAR,
    ),
    "modernbert": dict(
        seed=83,
        first_id=4,
        # Layer 0 sees everything, layers 1 and 2 a window; no layer has a bias.
        config=ModernBertConfig(
            **TINY_MODERNBERT, num_hidden_layers=3, local_attention=24, classifier_pooling="mean",
        ),
        bare=ModernBertModel,
        full=ModernBertForSequenceClassification,
        modules_to_save=["classifier", "head"],
        query_value=["Wqkv"],
        padded=False,
        lengths=[13, 2, 12, 150, 14, 25, 70],  # about the window, and blocks of queries within it
        cases=FEWER_CASES,
        adapter=DEFAULT,
    ),
    "modernbert_biased": dict(
        seed=89,
        first_id=4,
        # All that the other lacks: biases, the first token pooled, and a window in the last layer.
        config=ModernBertConfig(
            **TINY_MODERNBERT, num_hidden_layers=2, local_attention=40, classifier_pooling="cls",
            norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True,
            hidden_activation="gelu_pytorch_tanh", classifier_activation="relu",
            layer_types=["full_attention", "sliding_attention"],
        ),
        bare=ModernBertModel,
        full=ModernBertForSequenceClassification,
        modules_to_save=["classifier", "head"],
        query_value=["Wqkv"],
        padded=False,
        lengths=[21, 2, 20, 90, 22, 41, 66],
        cases=FEWER_CASES,
        adapter=ALL_LINEAR,
    ),
    "mpnet": dict(
        seed=67,
        first_id=4,
        config=MPNetConfig(
            **SMALL, vocab_size=45, max_position_embeddings=152, pad_token_id=1, layer_norm_eps=1e-5,
        ),
        bare=lambda config: MPNetModel(config, add_pooling_layer=False),
        full=MPNetForSequenceClassification,
        modules_to_save=["classifier"],
        query_value=["q", "v"],
        lengths=[17, 2, 33, 150, 5, 24, 9],  # farther than the farthest bucket of relative positions
        cases=FEWER_CASES,
        adapter=DEFAULT,
    ),
    "roberta": dict(
        seed=23,
        first_id=4,  # 1 is the padding, and position ids skip it
        config=RobertaConfig(
            vocab_size=130, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80,
            max_position_embeddings=72, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
            layer_norm_eps=1e-5,
        ),
        bare=lambda config: RobertaModel(config, add_pooling_layer=False),
        full=RobertaForSequenceClassification,
        modules_to_save=["classifier"],
        cases=CASES + [MULTI_LABEL_WEIGHTED],
        adapter=ALL_LINEAR,
    ),
    "xlm_roberta": dict(
        seed=53,
        first_id=4,
        config=XLMRobertaConfig(
            **SMALL, vocab_size=48, max_position_embeddings=72, type_vocab_size=1, layer_norm_eps=1e-5,
        ),
        bare=lambda config: XLMRobertaModel(config, add_pooling_layer=False),
        full=XLMRobertaForSequenceClassification,
        modules_to_save=["classifier"],
        cases=FEWER_CASES[2:3],
        adapter=DEFAULT,
    ),
}


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draws every parameter anew, so that no bias is zero and no LayerNorm is the identity."""
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        if name.lower().endswith("norm.weight"):
            parameter.data = 1.0 + 0.2 * noise
        else:
            parameter.data = 0.2 * noise


def write_checkpoints(family: dict, folder: Path) -> None:
    """`model/`: the encoder alone, without root prefix. `classifier/`: the whole classifier, three named labels."""
    generator = torch.Generator().manual_seed(family["seed"])
    bare = family["bare"](family["config"])
    randomise(bare, generator)
    bare.save_pretrained(folder / "model")

    config = type(family["config"])(**{
        **family["config"].to_dict(),
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
    })
    full = family["full"](config)
    randomise(full, generator)
    full.save_pretrained(folder / "classifier")


def load(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The classifier on that checkpoint, all dropout off; what the checkpoint lacks is still to be drawn."""
    config = json.loads((folder / "config.json").read_text())
    config_dropout = {key: 0.0 for key in config if "dropout" in key}
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(LABELS), attn_implementation="eager", dtype=torch.float32, **config_dropout
    )
    for name, parameter in model.named_parameters():
        if name.startswith("bert.pooler.") and isinstance(model, BigBirdForSequenceClassification):
            parameter.requires_grad_(False)  # its result is not used
    return model.to(dtype).train()


def saved_name(name: str) -> str:
    """The name under which a live parameter is saved: PEFT drops the adapter's name and the wrapper."""
    return name.replace(".modules_to_save.default", "").replace(".default", "")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {saved_name(name): p for name, p in sorted(model.named_parameters()) if p.requires_grad}


def build(family: dict, folder: Path, case: dict, dtype: torch.dtype, seed: int) -> tuple[nn.Module, dict]:
    """The model to train, and the parameters its checkpoint does not hold."""
    model = load(folder / case["checkpoint"], dtype)
    if case["method"] == "lora":
        model = with_adapter(model, family, case["lora"])
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, parameter in trainable(model).items():
        # The pooler of BERT's encoder is in its checkpoint, that beside DeBERTa's is not.
        parts = name.removeprefix("base_model.model.").split(".")
        new = case["checkpoint"] == "model" and ("classifier" in name or "head" in parts or parts[0] == "pooler")
        if "lora_" in name or new:
            # Both LoRA factors nonzero: with B = 0 the gradient of A would be zero and prove nothing.
            drawn[name] = 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.data = drawn[name].to(dtype, copy=True)
    return model, drawn


def with_adapter(model: nn.Module, family: dict, lora: dict) -> nn.Module:
    return get_peft_model(model, LoraConfig(
        task_type="SEQ_CLS", r=lora["r"], lora_alpha=lora["alpha"], lora_dropout=0.0,
        target_modules=target_modules(family, lora), use_rslora=lora["use_rslora"],
        modules_to_save=list(family["modules_to_save"]),
    )).train()


def target_modules(family: dict, lora: dict) -> list[str] | str:
    if lora["target_modules"] == DEFAULT["target_modules"]:
        return family.get("query_value", ["query", "value"])
    return lora["target_modules"]


def is_key_bias(name: str) -> bool:
    """Softmax does not see the key's bias: its exact gradient is zero, and Adam makes steps of the noise."""
    return name.endswith(("key.bias", "key_global.bias", "k_lin.bias", "attn.k.bias", "pos_key_proj.bias"))


def padded(sequences: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
    longest = max(map(len, sequences))
    return dict(
        input_ids=torch.tensor([s + [pad] * (longest - len(s)) for s in sequences]),
        attention_mask=torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences]),
    )


def is_unread(name: str) -> bool:
    """An adapter on BigBird's pooler, whose result nobody reads, gets no gradient."""
    return name.startswith("base_model.model.bert.pooler.lora_")


def logits_of(model: nn.Module, family: dict, sequences: list[list[int]]) -> torch.Tensor:
    """[B, C]. Not padded where padding farther than the window would see nothing at all: its softmax is no number;
    nor where the batch's length decides what a sequence sees."""
    if family.get("padded", True):
        return model(**padded(sequences, family["config"].pad_token_id)).logits
    return separately(model, sequences)


def separately(model: nn.Module, sequences: list[list[int]]) -> torch.Tensor:
    """[B, C], each sequence a batch of its own."""
    logits = []
    for sequence in sequences:
        for module in model.modules():
            if isinstance(module, BigBirdModel):  # a short sequence sets another type for good
                module.set_attention_type(module.config.attention_type)
        logits.append(model(input_ids=torch.tensor([sequence])).logits)
    return torch.cat(logits)


def optimizer_for(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with the Trainer's rule: no decay for biases and LayerNorm."""
    forbidden = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decayed = set(get_parameter_names(model, [nn.LayerNorm], forbidden))
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return torch.optim.AdamW([
        dict(params=[p for n, p in named if n in decayed], weight_decay=weight_decay),
        dict(params=[p for n, p in named if n not in decayed], weight_decay=0.0),
    ], lr=lr, betas=(0.9, 0.999), eps=1e-8)


def run(family: dict, folder: Path, case: dict, dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    """Ten optimizer steps on one batch: what `<case>.safetensors` holds."""
    model, drawn = build(family, folder, case, dtype, seed)
    weights = None if case["class_weights"] is None else torch.tensor(case["class_weights"], dtype=dtype)
    if "targets" in case:
        labels = torch.tensor(case["targets"], dtype=dtype)
        loss_of = nn.BCEWithLogitsLoss(pos_weight=weights)
    else:
        labels = torch.tensor(case["labels"])
        loss_of = nn.CrossEntropyLoss(weight=weights)
    optimizer = optimizer_for(model, case["lr"], case["weight_decay"])
    parameters = {name: p for name, p in trainable(model).items() if not is_unread(name)}

    out = {f"init.{name}": tensor for name, tensor in drawn.items()}
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        logits = logits_of(model, family, case["sequences"])
        loss = loss_of(logits, labels)
        loss.backward()
        losses.append(loss.detach())
        # With an infinite limit the call only measures; the stored gradients are those before clipping.
        if step == 0:
            out["logits"] = logits.detach()
            out["loss"] = loss.detach().reshape(1)
            for name, parameter in parameters.items():
                out[f"grad.{name}"] = parameter.grad.clone()
        limit = case["max_grad_norm"] if case["max_grad_norm"] is not None else float("inf")
        norms.append(nn.utils.clip_grad_norm_(list(parameters.values()), limit))
        optimizer.step()
    out["losses"] = torch.stack(losses)
    out["grad_norms"] = torch.stack(norms)
    for name, parameter in parameters.items():
        out[f"final.{name}"] = parameter.detach().clone()
    return out


def assert_reachable(case: str, exact: dict, single: dict) -> None:
    """Float32 Transformers must itself lie within the tolerance, relative to each tensor's largest value."""
    worst, where = 0.0, ""
    for name, tensor in exact.items():
        if is_key_bias(name):
            continue
        error = ((single[name].double() - tensor.double()).abs().max() / tensor.abs().max().clamp_min(1e-12)).item()
        if error > worst:
            worst, where = error, name
    print(f"{case:40} float32 differs by {worst:.1e} at {where}")
    assert worst <= TOLERANCE, f"{case}: float32 Transformers differs by {worst:.1e} at {where}"


def assert_nothing_idle(case: str, out: dict, idle: str | None) -> None:
    """Every trained tensor has a gradient worth comparing, apart from the key's bias and what `idle` matches."""
    for name, tensor in out.items():
        if name.startswith("grad.") and not is_key_bias(name):
            assert (tensor.abs().max() > 1e-6) != bool(idle and re.search(idle, name)), f"{case}: {name}"


def draw_sequences(lengths: list[int], family: dict, generator: torch.Generator) -> list[list[int]]:
    low, high = family["first_id"], family["config"].vocab_size
    return [torch.randint(low, high, (n,), generator=generator).tolist() for n in lengths]


def labels_of(given: dict, rows: int) -> dict:
    if "targets" in given:
        return dict(targets=given["targets"][:rows])
    return dict(labels=[[2, 0, 1, 1, 0, 2, 1][i % 7] for i in range(rows)])


def write_cases(name: str, family: dict, root: Path) -> list[dict]:
    cases = []
    for index, given in enumerate(family["cases"]):
        seed = 1000 * family["seed"] + index
        generator = torch.Generator().manual_seed(seed)
        lengths = family.get("lengths", LENGTHS) if given["packed"] else [family.get("single", 19)]
        case = dict(
            name=f"{name}_{given['name']}",
            family=name,
            checkpoint=given["checkpoint"],
            num_labels=len(LABELS),
            method=given["method"],
            lora=given.get("lora"),
            class_weights=given.get("class_weights"),
            max_grad_norm=given.get("max_grad_norm"),
            lr=2e-3 if given["method"] == "full" else 5e-3,
            weight_decay=0.1,
            steps=STEPS,
            sequences=draw_sequences(lengths, family, generator),
            **labels_of(given, len(lengths)),
        )
        if family.get("training"):
            case["training"] = True  # where that matters beside dropout
        exact = run(family, root / name, case, torch.float64, seed)
        assert_nothing_idle(case["name"], exact, family.get("idle"))
        assert_reachable(case["name"], exact, run(family, root / name, case, torch.float32, seed))
        if case["max_grad_norm"] is not None:
            clipped = exact["grad_norms"] > case["max_grad_norm"]
            assert clipped.any() and not clipped.all(), "the limit must bite at some steps and not at others"
        save(exact, root / f"{case['name']}.safetensors")
        cases.append(case)
    return cases


def write_adapter(name: str, family: dict, root: Path) -> dict:
    """An adapter folder as PEFT writes it, on the bare encoder, and the logits it gives."""
    case = dict(checkpoint="model", method="lora", lora=family["adapter"])
    seed = 1000 * family["seed"] + 100
    model, _ = build(family, root / name, case, torch.float32, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for saved, parameter in trainable(model).items():
        if "pooler" in saved:  # a pooler that differs from the checkpoint's shows whose is used
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    folder = root / name / "adapter"
    model.peft_config["default"].base_model_name_or_path = "../model"
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["target_modules"].sort()  # PEFT writes a set, in any order
    write_json(settings, folder / "adapter_config.json")

    sequences = draw_sequences(family.get("adapter_lengths", [6, 31, 2, 70]), family, generator)
    with torch.no_grad():
        logits = logits_of(model.double().eval(), family, sequences)
    save({"logits": logits}, root / f"{name}_adapter.safetensors")
    assert set(get_peft_model_state_dict(model)) == set(trainable(model))
    return dict(
        name=f"{name}_adapter", family=name, base="model", adapter="adapter", num_labels=len(LABELS),
        sequences=sequences,
    )


def write_random_blocks(path: Path) -> None:
    """What BigBird draws in training: [rows, heads, random] of block numbers."""
    drawn = []
    for seed, heads, size, random, max_length, lengths in [
        (0, 2, 64, 3, 4096, [705, 1000, 1024, 2048]),
        (1, 3, 64, 3, 4096, [768, 3072]),
        (11, 1, 64, 3, 4096, [4096, 4033]),
        (2, 2, 16, 2, 1024, [1009, 300]),
        (5, 2, 32, 4, 3072, [3041]),
        (3, 4, 3, 1, 50, [22, 48]),
    ]:
        config = BigBirdConfig(
            hidden_size=4 * heads, num_attention_heads=heads, block_size=size, num_random_blocks=random,
            max_position_embeddings=max_length,
        )
        for length in lengths:
            blocks = random_blocks(BigBirdBlockSparseAttention(config, seed).train(), -(-length // size) * size)
            drawn.append(dict(
                seed=seed, heads=heads, size=size, random=random, max_length=max_length, length=length,
                blocks=blocks.transpose(1, 0, 2).flatten().tolist(),
            ))
    write_list(drawn, path)


def random_blocks(attention: BigBirdBlockSparseAttention, length: int) -> np.ndarray:
    """[heads, rows, random], by the calls of `bigbird_block_sparse_attention`."""
    size, random, heads = attention.block_size, attention.num_random_blocks, attention.num_attention_heads
    np.random.seed(attention.seed)
    if length in [1024, 3072, 4096]:
        longest = attention.max_seqlen
        draw = lambda: attention._bigbird_block_rand_mask(longest, longest, size, size, random, last_idx=1024)
        return np.stack([draw()[: length // size - 2] for _ in range(heads)])
    ends, numbers = attention._get_rand_attn_plan(length, size, random)
    return np.stack(attention._bigbird_block_rand_mask_with_head(length, length, size, size, heads, ends, numbers))


# Families whose bare encoder computes what the classifier's does.
EMBEDDED = ["albert", "bert", "distilbert", "electra", "modernbert", "modernbert_biased", "mpnet", "roberta"]


@torch.no_grad()
def embeddings(folder: Path, sequences: list[list[int]]) -> torch.Tensor:
    """The mean of each sequence's last vectors [B, H], as sentence embeddings are made."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).double().eval()
    hidden = [model(input_ids=torch.tensor([sequence])).last_hidden_state[0] for sequence in sequences]
    return torch.stack([vectors.mean(dim=0) for vectors in hidden])


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({n: t.to(torch.float32).contiguous().clone() for n, t in sorted(tensors.items())}, path)


def write_json(value, path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=isinstance(value, dict)) + "\n")


def write_list(entries: list[dict], path: Path) -> None:
    """One entry a line: the sequences are long and nobody reads them down a column."""
    path.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write; the family folders in it are replaced")
    root = parser.parse_args().out
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)

    cases, adapters = [], []
    for name, family in FAMILIES.items():
        shutil.rmtree(root / name, ignore_errors=True)
        write_checkpoints(family, root / name)
        cases += write_cases(name, family, root)
        adapters.append(write_adapter(name, family, root))
    sequences = {adapter["family"]: adapter["sequences"] for adapter in adapters}
    means = {name: embeddings(root / name / "model", sequences[name]) for name in EMBEDDED}
    save(means, root / "embeddings.safetensors")
    write_list(cases, root / "cases.json")
    write_list(adapters, root / "adapters.json")
    write_random_blocks(root / "random_blocks.json")


if __name__ == "__main__":
    main()
