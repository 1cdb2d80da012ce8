"""Whether weights and adapters are whole, and whether they are the files that a digest names."""
