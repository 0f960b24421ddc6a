"""Inner solvers: they find the cores of structures, many structures and many starts at a time."""
