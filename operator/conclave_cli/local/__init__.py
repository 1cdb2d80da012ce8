"""Local mode: this machine's Ray, started, watched and ended by `conclave up`."""
