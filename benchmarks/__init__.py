"""Measurements behind the README's numbers; each script writes JSON under benchmarks/results/."""
