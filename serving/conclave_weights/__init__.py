"""Weights as files: digest, verification, soundness. No Ray, no vLLM, no torch."""
