"""Runs ONNX files in onnxruntime and compares their logits with ours.

    python check_onnx.py CASE_DIR...

A case has model.onnx and case.json: {"tolerance": ..., "sequences": [[id, ...], ...], "logits":
[[...], ...]}. Sequences are given alone, and all together, padded on the right with some id. Prints one line
of JSON a case: the file's opset, inputs, output, metadata and the largest difference of a logit over the
largest logit.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime


def batch(sequences, names, padding):
    longest = max(map(len, sequences))
    ids = np.full((len(sequences), longest), padding, np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: given[name] for name in names}


def check(folder):
    path = str(folder / "model.onnx")
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    case = json.loads((folder / "case.json").read_text())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    expected = np.array(case["logits"], np.float64)
    batches = [(rows, expected) for rows in [case["sequences"]]]
    batches += [([row], logits[None]) for row, logits in zip(*batches[0])]
    # Padding of any kind changes nothing, more of it neither.
    worst = 0.0
    for padding in (0, 5):
        for sequences, wanted in batches:
            (logits,) = session.run(["logits"], batch(sequences, names, padding))
            assert logits.shape == wanted.shape, (logits.shape, wanted.shape)
            assert np.isfinite(logits).all(), logits
            worst = max(worst, np.abs(logits - wanted).max())
    nodes = [node.name for node in model.graph.node]
    assert all(nodes) and len(set(nodes)) == len(nodes), "every node has a name of its own"
    print(json.dumps({
        "opset": [[entry.domain, entry.version] for entry in model.opset_import],
        "inputs": [[value.name, value.type, value.shape] for value in session.get_inputs()],
        "outputs": [[value.name, value.type, value.shape] for value in session.get_outputs()],
        "metadata": session.get_modelmeta().custom_metadata_map,
        "error": float(worst / np.abs(expected).max()),
    }), flush=True)


for folder in sys.argv[1:]:
    check(Path(folder))
