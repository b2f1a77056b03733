"""transformers' encoders, imported without what they never use, are transformers' own."""

import subprocess
import sys

import pytest

from methods.model import lean
from workflow.catalogue import ROOT

UNUSED = ("accelerate", "sympy", "scipy.linalg", "sklearn", "jinja2", "torch._dynamo", "torch.distributed.tensor")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_run_loads_none_of_the_heavy_modules_that_it_does_not_use():
    loaded = python("import sys, methods.run, methods.binarybert; print(*sys.modules)").split()
    assert not set(UNUSED) & set(loaded)


@pytest.mark.parametrize(("architecture", "prefix"), [("bert", "Bert"), ("roberta", "Roberta")])
def test_the_classes_are_those_of_a_plain_import_which_still_works_afterwards(architecture, prefix):
    code = f"""
from methods.model.lean import modelling_file
module = modelling_file("models.{architecture}.modeling_{architecture}")
import torch._dynamo, torch.distributed.tensor, transformers
name = "{prefix}ForSequenceClassification"
assert getattr(transformers, name) is getattr(module, name)
assert torch.distributed.tensor.DTensor.__module__.startswith("torch.distributed.tensor")
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
import accelerate; accelerate.Accelerator
print(transformers.AutoModel.__name__)
"""
    assert python(code) == "AutoModel"


def test_where_the_stand_ins_do_not_serve_the_import_is_plain():
    code = """
from methods.model import lean
lean._decorator = None  # as if the modelling files asked more of a stand-in than it has
module = lean.modelling_file("models.bert.modeling_bert")
import transformers
assert transformers.BertModel is module.BertModel
output = module.BertModel(transformers.BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1))
import torch
print(tuple(output(torch.ones(1, 3, dtype=torch.long)).last_hidden_state.shape))
"""
    assert python(code) == "(1, 3, 8)"


def test_loaded_modules_are_returned_as_they_are():
    assert lean.modelling_file("modeling_outputs") is sys.modules["transformers.modeling_outputs"]
