"""ONNX: written by torch's exporter, read back and run by onnxruntime."""

import importlib.util
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from dsdctl.errors import WorkError

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

    Its input is `images`, float32 (B, C, H, W), normalized; its output `logits` (B, K).
    Raises WorkError, with a line of the exporter's, where it refuses a network.
    """
    import onnx

    try:
        model = _exported(network.eval(), size)
        onnx.helper.set_model_props(model, dict(facts))
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # whatever a user's own network makes of being traced
        raise WorkError(f"torch.onnx refuses it ({_reason(error)})") from error
    return bytes(model.SerializeToString())


def _exported(network: nn.Module, size: Sequence[int]) -> Any:
    """What torch's exporter makes of a network, without what it says of itself meanwhile: its use
    of what torch deprecates, and whole graphs where it fails."""
    silenced = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (torch.zeros(2, *size),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    finally:
        logging.disable(silenced)
    assert program is not None
    return program.model_proto


def _reason(error: BaseException) -> str:
    """The first line of what was raised first; around it the exporter lays pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


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
    """Logits (N, K) by onnxruntime on the CPU, of normalized images (N, C, H, W).

    Raises WorkError, with a line of onnxruntime's, where that does not run it.
    """
    parts = [part.contiguous().numpy() for part in torch.split(images, BATCH)]
    try:
        session = session_of(model)
        logits = [session.run(["logits"], {"images": part})[0] for part in parts]
    except Exception as error:
        raise WorkError(f"onnxruntime does not run it ({_reason(error)})") from error
    return torch.cat([torch.from_numpy(part) for part in logits])
