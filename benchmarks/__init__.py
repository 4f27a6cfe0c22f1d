"""Measurements behind the documentation's numbers; each script writes JSON under benchmarks/results/."""
