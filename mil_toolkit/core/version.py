"""The version of the package, in the one place that imports nothing."""

__version__ = "0.1.0"
