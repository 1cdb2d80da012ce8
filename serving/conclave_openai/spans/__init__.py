"""Spans of requests, and their export: figures and names, never content."""
