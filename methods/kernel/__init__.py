"""The shared quantization kernel: grids, their gradients, packed codes and the layers that use them. Imports torch only."""
