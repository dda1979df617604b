"""onnxruntime's side of `predict`: the network exported once, fused by its transformer optimizer, in f32.

The export runs in a process of its own, so that the measured one never holds PyTorch and its peak memory
is onnxruntime's alone. f32 is the mode whose logits equal PyTorch's (checked at export); dynamic int8 would
be faster and is another model.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy
import onnxruntime

from batches import padded

OPSET = 17  # the newest whose attention and LayerNorm the optimizer's patterns know


class Session:
    def __init__(self, shape: str, cache: Path, threads: int | None):
        path = cache / f"{shape}-onnxruntime-{onnxruntime.__version__}.onnx"
        if not path.exists():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                process.submit(export, shape, path).result()
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.intra_op_num_threads = threads or 0  # 0: one per core
        self.session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def logits(self, ids: numpy.ndarray, mask: numpy.ndarray) -> numpy.ndarray:
        """[rows, classes]"""
        return self.session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


def export(shape: str, path: Path) -> None:
    """Writes the fused graph, once its logits equal PyTorch's on rows of unlike length."""
    import torch
    from onnxruntime.transformers import optimizer

    from networks import SHAPES, Predictor, network

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            # The optimizer's attention pattern is that of products written out, not of sdpa.
            self.network = network(shape, attention="eager")

        def forward(self, input_ids, attention_mask):
            return self.network(input_ids=input_ids, attention_mask=attention_mask).logits

    ids, mask = padded([[7919 * j % 30000 + 5 for j in range(length)] for length in (23, 5, 17)])
    rows_and_tokens = {0: "rows", 1: "tokens"}
    plain, fused = path.with_suffix(".plain.onnx"), path.with_suffix(f".{os.getpid()}.onnx")
    # TorchScript's exporter (dynamo=False): its graphs are those that the optimizer's patterns were written for.
    torch.onnx.export(
        Logits().eval(), (torch.from_numpy(ids), torch.from_numpy(mask)), plain, dynamo=False,
        opset_version=OPSET, input_names=["input_ids", "attention_mask"], output_names=["logits"],
        dynamic_axes={"input_ids": rows_and_tokens, "attention_mask": rows_and_tokens, "logits": {0: "rows"}},
    )
    config = SHAPES[shape]
    graph = optimizer.optimize_model(str(plain), model_type="bert", num_heads=config.num_attention_heads,
                                     hidden_size=config.hidden_size)
    graph.save_model_to_file(str(fused))
    plain.unlink()
    fusions = graph.get_fused_operator_statistics()
    if fusions["Attention"] != config.num_hidden_layers:
        raise RuntimeError(f"attention is fused in {fusions['Attention']} of {config.num_hidden_layers} layers")
    ids, mask = padded([[6301 * j % 30000 + 5 for j in range(length)] for length in (9, 31, 2, 14)])
    found = onnxruntime.InferenceSession(fused).run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
    numpy.testing.assert_allclose(found, Predictor(shape, "f32").logits(ids, mask), rtol=0, atol=1e-5)
    fused.rename(path)
