"""Tensors kept on disk between runs: where, under which weights, under which contents."""
