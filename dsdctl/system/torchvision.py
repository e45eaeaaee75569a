"""Imports torchvision, also beside a torch whose build its operators do not match.

torchvision's wheels are built against CUDA builds of torch. Beside a CPU-only torch the compiled
operators cannot load, and the import then fails while it registers shape functions for them
(`operator torchvision::nms does not exist`). Nothing here uses these operators, so it is enough
that their schemas exist; they are defined only where the compiled library did not bring them.
"""

from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _import_torchvision() -> ModuleType:
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name, schema in _SCHEMAS.items():
            library.define(name + schema)  # type: ignore[no-untyped-call]
        _libraries.append(library)
        import torchvision
    return torchvision  # type: ignore[no-any-return]


_libraries: list[torch.library.Library] = []  # dropping a Library takes its schemas with it

_torchvision = _import_torchvision()
datasets = _torchvision.datasets
models = _torchvision.models
transforms = _torchvision.transforms
