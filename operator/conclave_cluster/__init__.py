"""The only room that talks to Kubernetes: the `Cluster` seam, its real and its fake implementation, the Lease."""
