"""ONNX: written by torch's exporter, read back and run by onnxruntime."""

import importlib.util
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

OPSET = 18

BATCH = 100
"""Images that are run at once."""

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def without_onnx() -> str | None:
    """Why no ONNX can be written, where what it takes is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return f"ONNX needs {', '.join(missing)}: pip install 'dsdctl[export]' brings them"


def onnx_bytes(network: nn.Module, size: Sequence[int], facts: Mapping[str, str]) -> bytes:
    """A network as an ONNX file with `facts` as its metadata, for batches of images of `size`.

    Its input is `images`, float32 (B, C, H, W), normalised; its output `logits` (B, K).
    """
    import onnx

    with warnings.catch_warnings():
        # The exporter's own use of what torch deprecates is no concern of a user's.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.eval(),
            (torch.zeros(2, *size),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def session_of(model: bytes, threads: int = 0) -> Any:
    """A session of onnxruntime's on the CPU; 0 threads are as many as it takes itself.

    It reports home and leaves an identity in the user's cache, unless it is told not to before it
    is imported. Whoever sets the variable decides.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(model: bytes, images: Tensor) -> Tensor:
    """Logits (N, K) by onnxruntime on the CPU, of normalised images (N, C, H, W)."""
    session = session_of(model)
    parts = [part.contiguous().numpy() for part in torch.split(images, BATCH)]
    logits = [session.run(["logits"], {"images": part})[0] for part in parts]
    return torch.cat([torch.from_numpy(part) for part in logits])
