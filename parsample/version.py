"""The version, in a module of its own so that files written by the library can name it."""

__version__ = "0.1.0"
