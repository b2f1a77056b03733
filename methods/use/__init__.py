"""Uses of a finished model file: inspect it, ask it, and measure this machine."""

from methods.use.model import Model

__all__ = ["Model"]
