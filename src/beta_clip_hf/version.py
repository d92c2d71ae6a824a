"""The version of the package, in a file of its own: whoever records it need not import the package."""

__version__ = "0.1.0"
