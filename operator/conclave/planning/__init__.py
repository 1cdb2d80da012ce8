"""The plan: memory, parallelism and placement, explained. Pure and deterministic; `plan.py` is the entrance."""
