"""Measurements of adapted language models."""
