"""The only room that talks to Kubernetes: the `Cluster` seam and its implementation, informers, the Lease."""
