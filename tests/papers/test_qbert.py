"""Q-BERT: the Hessian's top eigenvalues, the search that measures them, and models of two and four bits."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from methods import qbert
from methods.common import files
from methods.kernel.layers import QuantEmbedding, QuantLinear
from methods.kernel.quantizers import Even
from methods.model import artifact
from methods.model.anatomy import matrices
from methods.model.edits import show_scores
from methods.training.ancestors import ALLOCATION
from methods.training.context import Journal
from methods.training.forward import forward
from methods.training.objective import labels
from tests.fixtures.models import batch_of, bert_base, model_of
from tests.fixtures.runs_of_methods import recipe_of, request
from tests.fixtures.world import loader, tiny

LAYERS, SHARES = 2, 10


class Killed(BaseException):
    """What nothing catches."""


# --- eigenvalues ------------------------------------------------------------------------------------------


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("values", [(5.0, 2.0, 1.0), (-5.0, 2.0, 1.0), (0.5, -3.0, 2.0)])
def test_of_a_quadratic_form_the_largest_magnitude_is_found_with_its_sign(values):
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator(), dtype=torch.float64))
    form = turn @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ turn.T
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    found = qbert.top_eigenvalue(lambda: [x @ form @ x / 2], [x], 60, generator())
    assert found == pytest.approx(max(values, key=abs), rel=1e-6)


def network():
    """Return ten parameters in two tensors, and a loss over ten rows by parts of different sizes."""
    torch.manual_seed(3)
    first, second = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 4), (2,)))
    x, y = torch.randn(10, 4, dtype=torch.float64), torch.randn(10, dtype=torch.float64)

    def parts(*sizes: int):
        for rows, targets in zip(x.split(sizes), y.split(sizes), strict=True):
            yield ((torch.tanh(rows @ first.T) @ second - targets) ** 2).sum() / 10

    return [first, second], parts


def dense_hessian(loss: torch.Tensor, parameters: list[torch.Tensor]) -> torch.Tensor:
    """Return the Hessian, row by row."""
    slopes = torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [torch.autograd.grad(slope, parameters, retain_graph=True) for slope in slopes]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def test_the_top_eigenvalue_is_that_of_the_dense_hessian():
    parameters, parts = network()
    hessian = dense_hessian(next(parts(10)), parameters)
    exact = max(torch.linalg.eigvalsh(hessian).tolist(), key=abs)
    assert qbert.top_eigenvalue(lambda: parts(10), parameters, 300, generator()) == pytest.approx(exact, rel=1e-6)
    assert qbert.top_eigenvalue(lambda: parts(3, 3, 4), parameters, 300, generator()) == pytest.approx(exact, rel=1e-6)


def test_a_product_with_the_hessian_is_its_product():
    parameters, parts = network()
    direction = [torch.randn(one.shape, generator=generator(), dtype=torch.float64) for one in parameters]
    product = torch.cat([part.flatten() for part in qbert.hessian_product(lambda: parts(4, 6), parameters, direction)])
    hessian = dense_hessian(next(parts(10)), parameters)
    assert torch.allclose(product, hessian @ torch.cat([part.flatten() for part in direction]))


@pytest.mark.parametrize("kind", ["classification", "regression", "span"])
def test_of_an_encoder_too(kind):
    """48 numbers of one layer, through attention, GELU and LayerNorm."""
    model, batch = model_of(kind).double(), batch_of(kind)
    if kind == "regression":
        batch["labels"] = batch["labels"].double()
    show_scores(model)
    layer = model.bert.encoder.layer[0]
    parameters = [layer.attention.self.value.bias, layer.intermediate.dense.bias]
    losses = lambda: [labels(forward(model, batch), None, batch).mean()]  # noqa: E731
    hessian = dense_hessian(losses()[0], parameters)
    exact = max(torch.linalg.eigvalsh(hessian).tolist(), key=abs)
    assert qbert.top_eigenvalue(losses, parameters, 60, generator()) == pytest.approx(exact, rel=1e-3)


def test_a_flat_loss_has_no_curvature():
    x = torch.ones(3, requires_grad=True)
    assert qbert.top_eigenvalue(lambda: [(x**3).sum() * 0], [x], 5, generator()) == 0


# --- the search -------------------------------------------------------------------------------------------


def test_sensitivity_by_hand():
    assert qbert.sensitivity([4.0, 0.0]) == 2 + 2
    assert qbert.sensitivity([-3.0, -3.0, -3.0]) == 3


@pytest.mark.parametrize(("count", "rows"), [(10, 4), (7, 100), (1, 60), (100, 2)])
def test_shares_are_disjoint(count, rows, sst2):
    found = qbert.shares(loader(sst2), count, rows)
    assert len(found) == min(count, 60)
    together = np.concatenate(found)
    assert len(set(together.tolist())) == len(together)
    assert all(1 <= len(share) <= rows for share in found)
    if rows >= 60:
        assert sorted(together) == list(range(60))


def test_the_loss_of_a_share_is_its_mean_whatever_its_batches(sst2):
    model, rows = tiny().eval(), np.arange(20)
    batch = loader(sst2).batch(rows)
    parts = list(qbert.mean_loss(model, loader(sst2), rows))
    assert len(parts) == 3
    assert float(sum(parts).detach()) == pytest.approx(
        float(labels(forward(model, batch), None, batch).mean().detach()), rel=1e-5
    )


def searched(sst2, seed: int, journal=None, model=None, rows: int = 4, shares: int = 3) -> dict:
    recipe = recipe_of("qbert_search", rows=rows, shares=shares, iterations=4)
    context = SimpleNamespace(loader=loader(sst2, seed=seed), journal=journal or SimpleNamespace(once=lambda _, do: do()))
    return qbert.allocation(model or uneven(), recipe, context)


def uneven():
    """Return four layers, of which some add more to the hidden states than others."""
    model = tiny(num_hidden_layers=4, initializer_range=0.2)
    with torch.no_grad():
        for layer, factor in zip(model.bert.encoder.layer, (1.0, 4.0, 0.05, 0.3), strict=True):
            layer.attention.output.dense.weight *= factor
            layer.output.dense.weight *= factor
    return model


def test_the_order_of_layers_is_stable_over_two_seeds(sst2):
    """The seed shuffles the rows into other shares and turns the first direction."""
    one, other = (searched(sst2, seed, rows=6) for seed in (1, 2))
    assert one["eigenvalues"] != other["eigenvalues"]
    assert one["order"] == other["order"]
    assert one["sensitive"] == sorted(one["order"][:2])


def test_what_is_measured_is_the_mean_and_the_deviation_of_the_shares(sst2):
    found = searched(sst2, 1)
    assert np.shape(found["eigenvalues"]) == (4, 3)
    expected = np.abs(np.mean(found["eigenvalues"], 1)) + np.std(found["eigenvalues"], 1)
    assert found["sensitivities"] == pytest.approx(expected)
    assert found["order"] == np.argsort(-expected).tolist()


def test_a_search_leaves_its_model_alone(sst2):
    model = uneven()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    searched(sst2, 1, model=model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("answers", [0, 7])
def test_a_journal_is_taken_up_where_it_ends(answers, sst2, tmp_path, monkeypatch):
    whole, asked, measure = searched(sst2, 1), [], qbert.top_eigenvalue

    def counted(*arguments):
        if len(asked) == answers:
            raise Killed
        asked.append(1)
        return measure(*arguments)

    path = tmp_path / "journal.json"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(qbert, "top_eigenvalue", counted)
        searched(sst2, 1, Journal(path, "x"))
    monkeypatch.setattr(qbert, "top_eigenvalue", lambda *arguments: asked.append(1) or measure(*arguments))
    assert searched(sst2, 1, Journal(path, "x")) == whole
    assert len(asked) == 4 * 3


def test_a_run_that_was_killed_goes_on_with_the_next_question(run_method, tmp_path, monkeypatch):
    ancestors, write, written = {"init": run_method("fp32")[1]}, files.write_json, []

    def kill(path, content):
        write(path, content)
        written.append(path)
        if len(written) == 5:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(files, "write_json", kill)
        run_method.execute(request("qbert_search"), tmp_path / "search", ancestors)
    asked, measure = [], qbert.top_eigenvalue
    monkeypatch.setattr(qbert, "top_eigenvalue", lambda *arguments: asked.append(1) or measure(*arguments))
    run_method.execute(request("qbert_search"), tmp_path / "search", ancestors)
    assert len(asked) == LAYERS * SHARES - 5
    for name in ("run.json", ALLOCATION):
        assert (tmp_path / "search" / name).read_bytes() == (run_method("qbert_search")[1] / name).read_bytes()


# --- students ---------------------------------------------------------------------------------------------


def test_a_mixed_student_has_more_bits_where_the_search_said_so(run_method):
    _, folder = run_method("qbert_mixed")
    sensitive = json.loads((run_method("qbert_search")[1] / ALLOCATION).read_text())["sensitive"]
    assert len(sensitive) == 1
    student = run_method.students[folder]
    for at, names in enumerate(matrices(student)):
        grids = {student.get_submodule(name).weight_quantizer for name in names}
        assert {grid.bits for grid in grids} == {4 if at in sensitive else 2}
        assert all(isinstance(grid, Even) and grid.rows for grid in grids)
    packed = artifact.read(folder / "last.safetensors")[1]["packed"]
    bits = {at: {packed[f"{name}.weight"]["bits"] for name in names} for at, names in enumerate(matrices(student))}
    assert bits == {at: {4 if at in sensitive else 2} for at in range(LAYERS)}
    assert run_method("qbert_mixed")[0]["bits"]["weights"] > 3, "its pooler is in full precision"


def test_with_more_bits_everywhere_there_is_nothing_to_requantize():
    context = SimpleNamespace(ancestors={"allocation": SimpleNamespace(allocation=lambda: {"sensitive": [0, 1]})})
    student = qbert.student(tiny(), recipe_of("qbert_mixed"), context)
    assert [edit["kind"] for edit in student.record.edits] == ["quantize"]


def test_the_pooler_the_head_and_token_types_stay_in_full_precision():
    student = qbert.student(tiny(), recipe_of("qbert_2bit"), None)
    coded = [name for name, layer in student.named_modules() if isinstance(layer, QuantLinear | QuantEmbedding)]
    inside = [name for names in matrices(student) for name in names]
    assert set(coded) == {*inside, "bert.embeddings.word_embeddings", "bert.embeddings.position_embeddings"}


@pytest.mark.parametrize(
    ("method", "mebibytes"),
    [("qbert_4bit", 63.318), ("qbert_3bit", 53.193), ("qbert_2bit", 43.068), ("qbert_mixed", 53.193)],
)
def test_bert_base_has_the_published_sizes(method, mebibytes):
    """As the paper counts: without the ranges of groups, positions, token types and the pooler."""
    recipe = recipe_of(method)
    six = SimpleNamespace(ancestors={"allocation": SimpleNamespace(allocation=lambda: {"sensitive": [0, 2, 3, 7, 8, 11]})})
    with torch.device("meta"):
        model = qbert.student(bert_base(), dataclasses.replace(recipe), six)
    coded = {
        f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, QuantLinear | QuantEmbedding)
    }
    bits = 0
    for name, parameter in model.named_parameters():
        if not any(part in name for part in ("position", "token_type", "pooler", "classifier")):
            bits += parameter.numel() * (coded[name].weight_quantizer.bits if name in coded else 32)
    assert bits / 8 / 2**20 == pytest.approx(mebibytes, abs=0.0005)
    groups = sum(layer.weight.shape[0] for name, layer in coded.items() if "encoder" in name)
    assert groups == 12 * (5 * 768 + 3072)
