"""How fast is it? `python -m bench`, from a clone, times ours beside its peers and this
machine's limits, and writes nbs/benchmark.md."""
