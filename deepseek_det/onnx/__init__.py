"""ONNX: foreign networks in, our own out. Needs the extra: ``pip install deepseek-det[onnx]``.

The `onnx` package is imported where a file is read or written, not with this one.
"""
