"""onnxruntime's side of `predict`: the network exported once, in f32, with all of its graph optimisations.

`fused` passes the graph through onnxruntime's transformer optimizer before, which makes attention one
operation. On CPUs that is slower: 110 s of one core instead of 105 s for 59,492 tokens of RoBERTa-base shapes
at the best batch size of each, 14.9 s instead of 13.4 s of MiniLM-L6 (AVX-512, onnxruntime 1.32.0).

The export runs in a process of its own, so that the measured one never holds PyTorch and its peak memory
is onnxruntime's alone. f32 is the mode whose logits equal PyTorch's (checked at export).
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy
import onnxruntime

from batches import padded

# The newest for which the optimizer knows attention's and LayerNorm's patterns in both shapes.
OPSET = 17


class Session:
    def __init__(self, shape: str, fused: bool, cache: Path, threads: int | None):
        name = f"{shape}-fused" if fused else shape
        path = cache / f"{name}-onnxruntime-{onnxruntime.__version__}.onnx"
        if not path.exists():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                process.submit(export, shape, fused, path).result()
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.intra_op_num_threads = threads or 0  # 0: one per core
        self.session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def logits(self, ids: numpy.ndarray, mask: numpy.ndarray) -> numpy.ndarray:
        """[rows, classes]"""
        return self.session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


def export(shape: str, fused: bool, path: Path) -> None:
    """Writes the graph once its logits equal PyTorch's on rows of unlike length."""
    import torch

    from networks import Predictor, network

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            # The optimizer knows attention as products written out, not as sdpa.
            self.network = network(shape, attention="eager")

        def forward(self, input_ids, attention_mask):
            return self.network(input_ids=input_ids, attention_mask=attention_mask).logits

    ids, mask = padded([[7919 * j % 30000 + 5 for j in range(length)] for length in (23, 5, 17)])
    axes = {0: "rows", 1: "tokens"}
    unfinished = path.with_suffix(f".{os.getpid()}.onnx")
    # TorchScript's exporter (dynamo=False): the optimizer's patterns were written for its graphs.
    torch.onnx.export(
        Logits().eval(), (torch.from_numpy(ids), torch.from_numpy(mask)), unfinished, dynamo=False,
        opset_version=OPSET, input_names=["input_ids", "attention_mask"], output_names=["logits"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "rows"}},
    )
    if fused:
        fuse(shape, unfinished)
    ids, mask = padded([[6301 * j % 30000 + 5 for j in range(length)] for length in (9, 31, 2, 14)])
    session = onnxruntime.InferenceSession(unfinished, providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
    numpy.testing.assert_allclose(found, Predictor(shape, "f32").logits(ids, mask), rtol=0, atol=1e-5)
    unfinished.rename(path)


def fuse(shape: str, path: Path) -> None:
    from onnxruntime.transformers import optimizer

    from networks import SHAPES

    config = SHAPES[shape]
    graph = optimizer.optimize_model(str(path), model_type="bert", num_heads=config.num_attention_heads,
                                     hidden_size=config.hidden_size)
    found = graph.get_fused_operator_statistics()["Attention"]
    if found != config.num_hidden_layers:
        raise RuntimeError(f"attention is fused in {found} of {config.num_hidden_layers} layers")
    graph.save_model_to_file(str(path))
