"""PyTorch's side: networks of random weights, with LoRA to train, plain to predict; one optimizer step."""

import numpy
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig, RobertaConfig
from transformers.utils import logging

logging.set_verbosity_error()

SHAPES = {
    "roberta-base": RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1,
                                  layer_norm_eps=1e-5),
    "minilm-l6": BertConfig(vocab_size=30522, hidden_size=384, num_hidden_layers=6,
                            num_attention_heads=12, intermediate_size=1536),
}


def network(shape: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(42)
    return AutoModelForSequenceClassification.from_config(
        SHAPES[shape], attn_implementation=attention, dtype=dtype
    )


class Trainer:
    """LoRA r 8, alpha 32, dropout 0.1 on query and value, the head trained, AdamW, clipping at 1.0."""

    def __init__(self, shape: str, nf4: bool, precision: str):
        base = network(shape)
        if nf4:
            quantise(base)
        head = ["classifier", "pooler"] if shape == "minilm-l6" else ["classifier"]
        self.model = get_peft_model(base, LoraConfig(
            task_type="SEQ_CLS", r=8, lora_alpha=32, lora_dropout=0.1, target_modules=["query", "value"],
            modules_to_save=head,
        ))
        self.model.train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=2e-4, fused=True)
        self.autocast = precision == "bf16"

    def step(self, parts: list) -> None:
        """One optimizer step over a batch's parts, labels in turn."""
        total = sum(len(ids) for ids, _ in parts)
        for ids, mask in parts:
            labels = torch.arange(len(ids)) % 2
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                loss = self.model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask),
                                  labels=labels).loss
            (loss * (len(ids) / total)).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Predictor:
    """Logits without gradients, LoRA merged as PEFT's `merge_and_unload` leaves it: the plain network."""

    def __init__(self, shape: str, precision: str):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.model = network(shape, dtype=dtype).eval()

    def logits(self, ids: numpy.ndarray, mask: numpy.ndarray) -> numpy.ndarray:
        """[rows, classes]"""
        with torch.inference_mode():
            found = self.model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
        return found.float().numpy()


def quantise(model: torch.nn.Module) -> None:
    """The encoder's linear layers as bitsandbytes' 4-bit ones, computing in bf16."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or "encoder" not in name:
            continue
        new = Linear4bit(module.in_features, module.out_features, compute_dtype=torch.bfloat16,
                         compress_statistics=True, quant_type="nf4")
        new.weight = Params4bit(module.weight.data, requires_grad=False, compress_statistics=True,
                                quant_type="nf4")
        new.bias = module.bias
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], new.to("cpu"))
