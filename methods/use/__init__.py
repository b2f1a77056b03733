"""Uses of a finished model file: inspect it, ask it, and measure this machine."""
