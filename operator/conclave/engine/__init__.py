"""The configuration of an engine: arguments, Serve config, load bounds, tracing; and what its exceptions mean."""
