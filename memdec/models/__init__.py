"""Causal language models, the memory decoder and their mixture."""
