"""Weights from an object store into a directory."""
