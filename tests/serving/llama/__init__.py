"""Tests on one engine of Llama 3, which ends when they have run: pytest ends a package's fixtures with the package."""
