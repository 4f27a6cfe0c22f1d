"""Helpers for JAX and NumPy that do not depend on chains."""
