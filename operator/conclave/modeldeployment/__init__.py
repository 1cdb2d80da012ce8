"""The kind ModelDeployment: what is observed of one, what should exist for it, and its status."""
