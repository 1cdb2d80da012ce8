"""Request bodies: read within bounds of bytes, time and memory, and parsed as strict JSON."""
