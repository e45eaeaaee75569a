"""Networks out of the store: as safetensors and ONNX, whole and compacted, with a model card."""
