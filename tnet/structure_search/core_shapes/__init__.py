"""Ranks of Tucker and tree networks for a number of parameters."""
