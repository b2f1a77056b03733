"""Import transformers' encoders without what they never use here: every run is a process, and pays for its imports.

The modelling files of transformers 5 import its loading of checkpoints from the hub, its distributed and quantized
training, its text generation and its chat templates, and with them sympy, scipy, accelerate and most of
torch.distributed: 3 of the 4.5 CPU seconds of a run's start (measured). `modelling_file` imports a file with stand-ins in
their places and takes the stand-ins away again. The classes are transformers' own; a later plain `import transformers`
works, and finds the same classes.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator
from importlib import metadata

# Modules that the modelling files import and no encoder uses, with everything below them.
UNUSED = (
    *(
        "accelerate",
        "httpcore2",
        "httpx2",
        "jinja2",
        "PIL",
        "scipy.optimize",
        "torch._dynamo",
        "torch.distributed.checkpoint",
    ),
    *("torch.distributed._composable", "torch.distributed.fsdp", "torch.distributed.tensor"),
    *("transformers.distributed.pipeline_parallel", "transformers.distributed.tensor_parallel"),
    *("transformers.generation.continuous_batching", "transformers.integrations.flex_attention", "transformers.models.auto"),
    *("transformers.quantizers", "transformers.utils.auto_docstring", "transformers.utils.chat_template_utils"),
)
# Packages whose own files search the whole of transformers for names; only the modules in them are needed.
PACKAGES = ("transformers", "transformers.models")


def modelling_file(name: str) -> types.ModuleType:
    """Import a module of transformers, such as `models.bert.modeling_bert`."""
    name = f"transformers.{name}"
    if name in sys.modules or "transformers" in sys.modules:
        return importlib.import_module(name)
    before = set(sys.modules)
    try:
        with _stand_ins():
            return importlib.import_module(name)
    except Exception:  # another version of transformers uses what this one does not: import it as everybody does
        for module in sys.modules.keys() - before:
            if module.partition(".")[0] == "transformers":
                del sys.modules[module]
        return importlib.import_module(name)


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.made:
            module = sys.modules.pop(name, None)
            package, _, last = name.rpartition(".")
            if package in sys.modules and vars(sys.modules[package]).get(last) is module:
                delattr(sys.modules[package], last)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes stand-ins for the unused modules, and the packages without running their files."""

    def __init__(self):
        self.made: list[str] = []

    def find_spec(self, name, path=None, target=None):
        if any(name == unused or name.startswith(f"{unused}.") for unused in UNUSED):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        if name in PACKAGES or (name.startswith("transformers.models.") and name.count(".") == 2):
            found = importlib.machinery.PathFinder.find_spec(name, path)
            if found is None:
                return None
            spec = importlib.machinery.ModuleSpec(name, self, is_package=True)
            spec.submodule_search_locations = found.submodule_search_locations
            return spec
        return None

    def create_module(self, spec):
        self.made.append(spec.name)
        if spec.name.startswith("transformers") and not spec.name.startswith(UNUSED):
            package = types.ModuleType(spec.name)
            package.__version__ = metadata.version("transformers")
            return package
        return _StandIn(spec.name)

    def exec_module(self, module) -> None:
        """Run nothing."""


class _StandIn(types.ModuleType):
    """A module that has every name: a class of which nothing is an instance, or a decorator that changes nothing."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        if name[0].isupper():
            value = type(name, (), {"__module__": self.__name__, "__init__": lambda self, *args, **options: None})
        else:
            value = _decorator
        setattr(self, name, value)
        return value


def _decorator(*arguments, **options):
    if len(arguments) == 1 and callable(arguments[0]) and not options:
        return arguments[0]
    return lambda function: function
