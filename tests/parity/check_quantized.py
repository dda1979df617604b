"""Loads what `ferrotune quantize` wrote with Transformers and bitsandbytes, and compares.

    python check_quantized.py roberta FOLDER             # a small random RoBERTa to quantise
    python check_quantized.py load SOURCE FOLDER WORK    # what Transformers makes of FOLDER, into WORK
    python check_quantized.py compare WORK               # and what ferrotune makes of it

`load` demands of FOLDER, quantised from SOURCE: the tensors, types and shapes that Transformers and
bitsandbytes write for the same model, with the same codes; every layer of the encoder in 4 bits and
nothing else, as a bare encoder and as a classifier; nothing missing but a new head. It leaves in WORK a
random adapter, token ids of a few texts, and the dequantised weights and logits that `compare` wants
ferrotune's `dequantized` and `logits` examples to give: WORK/ours.safetensors, to the bit, and
WORK/ours.jsonl, to 1e-4 of the largest logit where bitsandbytes computes in float32, and to 3e-2 as it
computes by default (in bfloat16). Exit code 0 if all agree.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.utils import logging

TOLERANCE, BF16_TOLERANCE = 1e-4, 3e-2
LABELS = 3
TEXTS = [
    "We may suspend your account at any time without notice.",
    "You can always leave.",
    "Disputes are settled by arbitration; you waive the right to a trial by jury.",
    "By using the service you agree to these terms, and to all changes of them that we make from time to time, whether or not we tell you.",
    "a",
]


def make_roberta(folder: Path) -> None:
    """A classifier whose every number is random, and a tokenizer learned from the texts above."""
    torch.manual_seed(5)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>",
    ).save_pretrained(folder)
    model = RobertaForSequenceClassification(RobertaConfig(
        vocab_size=400, hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=320,
        max_position_embeddings=130, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        num_labels=LABELS,
    ))
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        parameter.data = 1 + 0.2 * noise if name.endswith("LayerNorm.weight") else 0.1 * noise
    model.save_pretrained(folder)


def header(folder: Path) -> dict:
    with safe_open(folder / "model.safetensors", "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        return {name: (s.get_dtype(), s.get_shape()) for name, s in slices.items()}


def compare_stored(source: Path, folder: Path) -> list[str]:
    """Against the checkpoint that Transformers saves after quantising the source itself."""
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    with tempfile.TemporaryDirectory() as temporary:
        theirs = Path(temporary)
        auto = AutoModel if is_bare(source) else AutoModelForSequenceClassification
        model = auto.from_pretrained(
            source, quantization_config=BitsAndBytesConfig(**settings), dtype=torch.float32, device_map="cpu"
        )
        model.save_pretrained(theirs)
        written, expected = header(folder), header(theirs)
        wanted = json.loads((theirs / "config.json").read_text())["quantization_config"]
        tensors = load_file(folder / "model.safetensors"), load_file(theirs / "model.safetensors")
    # Sizes of the JSON differ by the digits of its one number; old buffers are not weights.
    names = {name for name in written if not name.endswith("position_ids")}
    problems = [f"{name}: in one checkpoint only" for name in sorted(names ^ expected.keys())]
    problems += [f"{key}: {value}, not {wanted.get(key)}" for key, value in settings.items() if wanted.get(key) != value]
    magnitudes = 0
    for name in sorted(names & expected.keys()):
        ours, reference = (t[name] for t in tensors)
        if ".quant_state." in name:
            ours, reference = (json.loads(bytes(t.numpy())) for t in (ours, reference))
            offsets = ours.pop("nested_offset"), reference.pop("nested_offset")
            if ours != reference or abs(offsets[0] - offsets[1]) > 1e-6 * abs(offsets[1]):
                problems.append(f"{name}: {ours} {offsets[0]}, not {reference} {offsets[1]}")
        elif written[name] != expected[name]:
            problems.append(f"{name}: {written[name]}, not {expected[name]}")
        elif name.endswith(".absmax"):
            # On CPUs bitsandbytes rounds these bytes by a table of 65,536 entries: to a neighbour at times,
            # and by more where the map's values lie closer than the table's.
            values = tensors[0][name.removesuffix("absmax") + "nested_quant_map"]
            apart = (values[ours.int()] - values[reference.int()]).abs()
            far = ((ours.int() - reference.int()).abs() > 1) & (apart > 2 / 65535)
            magnitudes += (ours != reference).sum().item()
            if far.any():
                problems.append(f"{name}: {far.sum()} magnitudes are far apart, by {apart.max():.2e}")
        elif name.endswith(".nested_absmax"):
            if not torch.allclose(ours, reference, rtol=1e-4, atol=0):
                problems.append(f"{name}: differs")
        elif not torch.equal(ours, reference):
            problems.append(f"{name}: differs")
    print(f"{len(names)} tensors compared with those Transformers writes; {magnitudes} magnitudes rounded otherwise")
    return problems


def is_bare(folder: Path) -> bool:
    return json.loads((folder / "config.json").read_text())["architectures"][0].endswith("Model")


def compare_layers(folder: Path) -> list[str]:
    """As a bare encoder and as a classifier: which layers are in 4 bits, and which weights are new."""
    problems = []
    for auto in (AutoModel, AutoModelForSequenceClassification):
        model, report = auto.from_pretrained(folder, output_loading_info=True, device_map="cpu")
        name = type(model).__name__
        new = [key for key in report["missing_keys"] if not key.startswith(("classifier", "pooler"))]
        old = [key for key in report["unexpected_keys"] if not key.startswith("classifier")]
        problems += [f"{name}: {key} missing" for key in new] + [f"{name}: {key} unexpected" for key in old]
        problems += [f"{name}: {text}" for text in [*report["error_msgs"], *report["mismatched_keys"]]]
        for path, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and isinstance(module, Linear4bit) != (".layer." in f".{path}"):
                problems.append(f"{name}: {path} is {type(module).__name__}")
            if isinstance(module, Linear4bit) and module.weight.quant_state is None:
                problems.append(f"{name}: {path} has no state")
    return problems


def classifier(folder: Path) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=LABELS, attn_implementation="eager", device_map="cpu"
    )


def logits(folder: Path, adapter: Path, rows: list[list[int]], in_float32: bool) -> list[list[float]]:
    model = PeftModel.from_pretrained(classifier(folder), adapter).eval()
    for module in model.modules():
        if in_float32 and isinstance(module, Linear4bit):
            module.compute_dtype, module.support_avx512bf16_for_cpu = torch.float32, False
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0].tolist() for row in rows]


def load(source: Path, folder: Path, work: Path) -> int:
    torch.manual_seed(3)
    problems = compare_stored(source, folder) + compare_layers(folder)
    model = classifier(folder)
    dense = {
        f"{path}.weight": dequantize_4bit(module.weight.data, module.weight.quant_state)
        for path, module in model.named_modules() if isinstance(module, Linear4bit)
    }
    save_file(dense, work / "theirs.safetensors")
    modules = ["classifier", "pooler"] if model.config.model_type == "bert" else ["classifier"]
    settings = LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=["query", "value"], modules_to_save=modules
    )
    adapted = get_peft_model(model, settings)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape)
    adapted.save_pretrained(work / "adapter")
    rows = AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
    (work / "ids.jsonl").write_text("".join(json.dumps({"ids": row}) + "\n" for row in rows))
    answers = {name: logits(folder, work / "adapter", rows, name == "float32") for name in ("float32", "default")}
    (work / "theirs.json").write_text(json.dumps(answers))
    return report(problems)


def compare(work: Path) -> int:
    ours, theirs = load_file(work / "ours.safetensors"), load_file(work / "theirs.safetensors")
    problems = [] if theirs else ["no layer is in 4 bits"]
    for name, weight in theirs.items():
        if not torch.equal(ours[name].view(torch.int32), weight.float().view(torch.int32)):
            problems.append(f"{name}: dequantised weights differ")
    print(f"{len(theirs)} weights of {sum(w.numel() for w in theirs.values())} numbers dequantised")
    answers = json.loads((work / "theirs.json").read_text())
    rows = [json.loads(line)["logits"] for line in (work / "ours.jsonl").read_text().splitlines()]
    ours = torch.tensor(rows, dtype=torch.float64)
    for name, tolerance in (("float32", TOLERANCE), ("default", BF16_TOLERANCE)):
        theirs = torch.tensor(answers[name], dtype=torch.float64)
        error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        print(f"logits of {len(rows)} texts, bitsandbytes' {name} computation: largest difference {error:.2e} of the largest logit")
        if not error <= tolerance:
            problems.append(f"logits ({name}) differ by {error:.2e}, more than {tolerance}")
    return report(problems)


def report(problems: list[str]) -> int:
    print("\n".join(problems) if problems else "all agree")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("roberta").add_argument("folder", type=Path, metavar="FOLDER")
    loading = commands.add_parser("load")
    for name in ("source", "folder", "work"):
        loading.add_argument(name, type=Path, metavar=name.upper())
    commands.add_parser("compare").add_argument("work", type=Path, metavar="WORK")
    options = parser.parse_args()
    logging.set_verbosity_error()
    match options.command:
        case "roberta":
            return make_roberta(options.folder) or 0
        case "load":
            return load(options.source, options.folder, options.work)
        case _:
            return compare(options.work)


if __name__ == "__main__":
    sys.exit(main())
