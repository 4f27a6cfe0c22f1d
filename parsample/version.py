"""The version, in a module of its own so that files written by the library can name it."""

__version__ = "0.1.0"

# Raised with every change that changes the draws of any key: runs of another version are not continued.
CHAIN_VERSION = 2
