"""Algorithms that propose structures: the published ones and our own."""
