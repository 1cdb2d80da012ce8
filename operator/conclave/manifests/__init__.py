"""Pure builders: from a ModelDeployment and its plan to the objects that serve it."""
