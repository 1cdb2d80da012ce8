"""Files as the rest of this package opens them, and the headers of safetensors files."""
