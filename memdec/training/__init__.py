"""The losses, data and modules that train a memory decoder."""
