"""The packed engine: inference on packed weights in C, without torch."""

from methods.common.errors import UserError


class Unsupported(UserError):
    """The engine cannot run this model; the message says why."""


class NoCompiler(UserError):
    """The engine cannot be built here; the message says what to install."""
