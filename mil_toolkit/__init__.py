# Floor 0: the package's name and version, nothing that takes time to import.
"""Bags of images with patient metadata: from a folder of blood smears to a classifier."""

__version__ = "0.1.0"
