"""What Kubernetes' own objects and notations mean, without a client: shared by builders and readers."""
