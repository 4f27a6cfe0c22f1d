"""Whether blocks will pay, and which evaluation follows."""
