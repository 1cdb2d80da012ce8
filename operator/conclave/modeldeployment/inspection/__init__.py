"""The part that reads the config.json of an unknown model: Job, policy, and what keeps it."""
