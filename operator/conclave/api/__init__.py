"""The kinds of `conclave.dev/v1alpha1`, the one source of the CRDs and of the reference."""
