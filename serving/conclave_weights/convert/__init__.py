"""Converts pickled weights (PyTorch's, or Grok-1 as released) to safetensors. Only `values` imports NumPy."""
