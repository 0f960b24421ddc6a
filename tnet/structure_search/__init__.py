"""Search for the structure of a tensor network: topology, ranks and order of the modes, within a budget."""
