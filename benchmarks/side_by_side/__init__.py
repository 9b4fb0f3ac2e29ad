"""Two libraries on the same model, data and budget: the pieces of `benchmarks/hh_rlhf.py`."""
