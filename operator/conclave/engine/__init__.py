"""What an engine is told: arguments, Serve config, load bounds, tracing; and what its exceptions mean."""
