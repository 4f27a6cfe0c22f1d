"""Step size and metric from an ensemble of lanes."""
