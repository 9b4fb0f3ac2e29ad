"""Align any generative model from preferences."""

__version__ = "0.1.0"
