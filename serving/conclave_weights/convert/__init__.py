"""From the released checkpoint of Grok-1 to safetensors. Needs NumPy, which only `values` imports."""
