"""Many lanes side by side in one compiled program, and chains evaluated in blocks on them."""
