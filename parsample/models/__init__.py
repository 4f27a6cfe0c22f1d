"""Models as files and modules."""
