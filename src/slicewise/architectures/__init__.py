"""Adapters, one a file: the only place that knows an architecture's name."""
