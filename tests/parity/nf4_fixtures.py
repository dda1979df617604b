"""What bitsandbytes makes of small weights: its stored state and the numbers it gives back.

    python nf4_fixtures.py FOLDER     # writes FOLDER/nf4.safetensors

Each case holds the keys a Linear4bit `CASE.weight` has in a checkpoint, the weight it was made from
(`CASE.original`) and bitsandbytes' own dequantised weight (`CASE.expected`, float32).
"""

import sys
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import save_file

CASES = {  # rows, columns, double quantisation, type
    "plain": (24, 80, False, torch.float32),
    "double": (32, 64, True, torch.float32),
    "straddling": (84, 200, True, torch.float32),
    "bfloat16": (16, 96, True, torch.bfloat16),
    "float16": (16, 96, False, torch.float16),
}


def main() -> None:
    torch.manual_seed(7)
    tensors = {}
    for name, (rows, columns, double, dtype) in CASES.items():
        weight = (torch.randn(rows, columns) * 0.02).to(dtype)
        weight[0, :64] = 0
        # As one row: on CPUs bitsandbytes 0.50.2 gives wrong magnitudes to rows that are no whole blocks.
        codes, state = quantize_4bit(
            weight.reshape(1, -1), blocksize=64, compress_statistics=double, quant_type="nf4"
        )
        tensors[f"{name}.original"] = weight.float()
        tensors[f"{name}.expected"] = dequantize_4bit(codes, state).float().reshape(rows, columns)
        state.shape = weight.shape
        tensors[f"{name}.weight"] = codes
        for key, value in state.as_dict(packed=True).items():
            tensors[f"{name}.weight.{key}"] = value
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, Path(sys.argv[1]) / "nf4.safetensors")


if __name__ == "__main__":
    main()
