"""Whether a chain forgets where it started: Lyapunov exponents and coalescence times."""
