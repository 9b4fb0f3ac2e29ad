"""Bandits with exact truth: a response is one of a few actions."""
