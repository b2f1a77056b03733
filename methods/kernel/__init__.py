"""The shared quantization kernel: grids, their gradients, packed codes and the layers that use them.

Imports torch, and of this project only the vocabulary of options.
"""
