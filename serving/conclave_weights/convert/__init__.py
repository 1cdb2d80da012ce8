"""From pickled weights, PyTorch's or Grok-1 as released, to safetensors. Needs NumPy, which only `values` imports."""
