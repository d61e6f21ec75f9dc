"""The version, apart from the package's face: whatever records it need not import that."""

__version__ = "0.2.0"
