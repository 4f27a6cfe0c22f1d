"""Tools that know JAX and NumPy, not chains."""
