"""Memory Decoder: train a small decoder to imitate kNN retrieval, plug it into a frozen LM."""

__all__ = ["__version__"]

__version__ = "0.1.0"
