"""Nonlinear state space models that are no samplers of `parsample.sample`, as plain ``step(state, input)`` functions.

Each function returns a `parsample.Recursion`, whose parts `parsample.deer`, `lyapunov_exponent` and `check` take as
they are, in JAX's default precision.
"""
