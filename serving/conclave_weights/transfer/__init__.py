"""Weights from an object store or a hub into a directory."""
