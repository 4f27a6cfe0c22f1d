"""Nonlinear state space models that `parsample.sample` does not cover, as plain ``step(state, input)`` functions.

Each function returns a `parsample.Recursion` in JAX's default precision; its fields are the arguments of
`parsample.deer`, `lyapunov_exponent` and `check`.
"""
