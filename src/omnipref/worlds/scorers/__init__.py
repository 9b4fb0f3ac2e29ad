"""Worlds of small scorers: a case has a score, and the objectives of policies are minimised on it."""
