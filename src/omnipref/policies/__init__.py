"""How likely is each case: models that score cases and sample responses."""
