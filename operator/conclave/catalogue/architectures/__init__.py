"""Readers of `config.json`, one for each family of architectures. Called by `conclave.catalogue.facts` only."""
