"""Readers of `quantization_config`, one module for each tool that writes it. Called by `weight_format` only."""
