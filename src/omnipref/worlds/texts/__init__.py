"""Tasks in a few dozen words with exact judges, and small transformers that write them badly at first."""
