"""The operator: one level-based reconcile for every trigger, under a Lease. Run as `conclave operator run`."""
