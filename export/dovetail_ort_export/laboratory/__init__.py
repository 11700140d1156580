"""What a graph is made of, what its passes cost on this machine, and what changing one does."""
