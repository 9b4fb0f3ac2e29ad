"""Autoregressive policies: text, vision-language and other `transformers` models that emit text."""
