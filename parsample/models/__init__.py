"""Models loaded from files and modules."""
