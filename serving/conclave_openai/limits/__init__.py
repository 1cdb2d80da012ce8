"""What a request may ask for: fields, sizes and shapes (request_limits.yaml)."""
