"""The ordered stages, the runner and the local sweep."""
