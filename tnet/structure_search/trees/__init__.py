"""Trees over modes: which topology, which ranks, for an error or a size, from the singular values of cuts."""
