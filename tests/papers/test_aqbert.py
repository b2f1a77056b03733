"""AQ-BERT-style: the mixture of widths, the loss of the size, which rows are held out, what a search finds, and runs."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from methods import aqbert, binarybert
from methods.common import interrupt
from methods.common.errors import UserError
from methods.kernel.layers import QuantLinear
from methods.kernel.quantizers import Clipped
from methods.model import artifact
from methods.model.anatomy import PARTS
from methods.training import optimizers
from methods.training.ancestors import ALLOCATION
from tests.fixtures.models import META, answers, batch_of, bert_base, model_of
from tests.fixtures.runs_of_methods import CATALOGUE, recipe_of, request
from tests.fixtures.world import context

GRID = {"kind": "clipped", "bits": 8, "rows": True}
WEIGHT = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))


def mixture_of(weight=WEIGHT, logits=(0.0, 0.0, 0.0), choices=(0, 2, 4), temperature=1.0) -> aqbert.Mixture:
    mixture = aqbert.Mixture(GRID, list(choices), weight, 0)
    mixture.logits.copy_(torch.tensor(logits))
    mixture.temperature.fill_(temperature)
    return mixture


def at_bits(bits: int, weight=WEIGHT) -> torch.Tensor:
    quantizer = Clipped(bits, rows=True)
    quantizer.calibrate(weight)
    return quantizer(weight)


# --- the mixture ------------------------------------------------------------------------------------------


def test_a_mixture_is_the_sum_of_its_widths_by_their_shares():
    mixture = mixture_of(logits=np.log([0.2, 0.3, 0.5]).tolist())
    assert torch.allclose(mixture(WEIGHT), 0.3 * at_bits(2) + 0.5 * at_bits(4), atol=1e-6)
    mixture.noise.copy_(torch.tensor([np.log(5.0), 0.0, 0.0]))  # 1, 0.3 and 0.5 of 1.8
    assert torch.allclose(mixture(WEIGHT), (0.3 * at_bits(2) + 0.5 * at_bits(4)) / 1.8, atol=1e-6)
    assert torch.allclose(mixture.eval()(WEIGHT), 0.3 * at_bits(2) + 0.5 * at_bits(4), atol=1e-6)


@pytest.mark.parametrize(("best", "expected"), [(0, torch.zeros_like(WEIGHT)), (1, at_bits(2)), (2, at_bits(4))])
def test_a_cold_mixture_is_the_quantizer_of_its_likeliest_width(best, expected):
    logits = [0.1 * (choice == best) for choice in range(3)]
    assert torch.equal(mixture_of(logits=logits, temperature=1e-4)(WEIGHT), expected)


def test_gradients_of_a_mixture_by_hand():
    """The weight's is the share of what is not removed; a logit's is its share times what its width adds to the mean."""
    mixture, weight = mixture_of(logits=np.log([0.2, 0.3, 0.5]).tolist()), WEIGHT.clone().requires_grad_()
    mixture.logits.requires_grad_(True)
    gradient = torch.randn(WEIGHT.shape, generator=torch.Generator().manual_seed(1))
    (mixture(weight) * gradient).sum().backward()
    assert torch.allclose(weight.grad, 0.8 * gradient, atol=1e-6)
    each = torch.stack([(values * gradient).sum() for values in (torch.zeros(1), at_bits(2), at_bits(4))])
    shares = torch.tensor([0.2, 0.3, 0.5])
    assert torch.allclose(mixture.logits.grad, shares * (each - (shares * each).sum()), atol=1e-5)


def test_noise_is_that_of_the_step_and_has_gumbels_mean():
    model = nn.ModuleList(aqbert.Mixture(GRID, [0, 2, 4], WEIGHT, number) for number in range(400))
    aqbert.renew(model, 0.5, seed=1, step=7)
    drawn = torch.stack([mixture.noise.clone() for mixture in model])
    assert float(drawn.mean()) == pytest.approx(0.5772, abs=0.15)
    assert float(model[0].temperature) == 0.5
    aqbert.renew(model, 0.5, seed=1, step=8)
    assert not torch.equal(torch.stack([mixture.noise for mixture in model]), drawn)
    aqbert.renew(model, 0.5, seed=1, step=7)
    assert torch.equal(torch.stack([mixture.noise for mixture in model]), drawn)


def test_a_layer_takes_new_shares_and_its_own_in_evaluation():
    linear = nn.Linear(10, 6, bias=False)
    layer = QuantLinear(linear, mixture_of(linear.weight.detach()), None)
    x = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    outputs = [layer(x)]
    layer.weight_quantizer.noise.copy_(torch.tensor([3.0, 0.0, 0.0]))
    outputs.append(layer(x))
    outputs.append(layer.eval()(x))
    assert not torch.allclose(outputs[0], outputs[1])
    assert torch.allclose(outputs[2], outputs[0])
    with torch.no_grad():
        assert torch.allclose(layer(x), outputs[2])


# --- the size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "sign"), [(0.94, -1), (0.96, 0), (1.0, 0), (1.04, 0), (1.06, 1)])
def test_the_loss_of_the_size_turns_at_the_budget(ratio, sign):
    """Cold mixtures of 2 and 4 bits over 100 and 300 numbers take 200 + 1200 bits."""
    mixtures = [mixture_of(logits=(0.0, 9.0, 0.0), temperature=1e-3), mixture_of(logits=(0.0, 0.0, 9.0), temperature=1e-3)]
    loss = aqbert.size_loss(mixtures, [100, 300], 1400 / ratio, tolerance=0.05)
    assert float(loss) == pytest.approx(sign * np.log(1400), rel=1e-2)


@pytest.mark.parametrize("share", [2.9 / 32, 1.9 / 32])
def test_steps_lead_to_the_budget(share):
    recipe = recipe_of("aqbert_30mb_search", share=share, choice_lr=1.0)
    mixtures = [mixture_of() for _ in range(4)]
    for _ in range(300):
        aqbert.step_of_choices(mixtures, [60] * 4, lambda: torch.zeros(()), recipe)
    size = sum(float((one.widths * one.shares()).norm()) for one in mixtures) / 4
    assert size == pytest.approx(share * 32, rel=0.08)
    assert not any(one.logits.requires_grad for one in mixtures)


def test_a_matrix_without_effect_gets_no_bits_and_one_that_matters_gets_all():
    recipe = recipe_of("aqbert_30mb_search", share=2 / 32, choice_lr=1.0)
    mixtures, x = [mixture_of(), mixture_of()], torch.randn(40, 10, generator=torch.Generator().manual_seed(2))

    def loss():
        useful, noise = (mixture(WEIGHT) for mixture in mixtures)
        return ((x @ (useful - WEIGHT).T + 0.0 * (x @ noise.T)) ** 2).mean()

    for step in range(200):
        aqbert.renew(nn.ModuleList(mixtures), 1.0, 1, step)
        aqbert.step_of_choices(mixtures, [60, 60], loss, recipe)
    gains = [mixture.logits.log_softmax(0).tolist() for mixture in mixtures]
    assert [int(np.argmax(one)) for one in gains] == [2, 0]
    assert binarybert.best_choices(gains, [[0, 120, 240]] * 2, 240) == [2, 0]


@pytest.mark.parametrize("seed", range(10))
def test_the_best_choices_are_those_of_trying_everything(seed):
    random = np.random.default_rng(seed)
    items = [int(random.integers(1, 4)) for _ in range(int(random.integers(1, 6)))]
    gains = [random.normal(size=count).tolist() for count in items]
    costs = [(6 * random.integers(0, 6, count)).tolist() for count in items]
    budget = int(random.integers(0, 70))
    ways = [
        (sum(gain[at] for gain, at in zip(gains, way, strict=True)), way)
        for way in itertools.product(*map(range, items))
        if sum(cost[at] for cost, at in zip(costs, way, strict=True)) <= budget
    ]
    if not ways:
        with pytest.raises(UserError, match="No choice fits a budget"):
            binarybert.best_choices(gains, costs, budget)
    else:
        assert tuple(binarybert.best_choices(gains, costs, budget)) == max(ways)[1]


@pytest.mark.parametrize(("method", "megabytes"), [("aqbert_30mb", 30), ("aqbert_20mb", 20)])
def test_bert_bases_budget_is_the_papers(method, megabytes):
    model = bert_base({"kind": "quantize", "weights": {"kind": "symmetric", "bits": 8, "rows": True}})
    matrices = sum(layer.weight.numel() for layer in aqbert.encoder_matrices(model).values())
    others = sum(p.numel() for n, p in model.bert.encoder.named_parameters()) - matrices
    assert matrices == 84_934_656
    assert 4 * (matrices + others) / 2**20 == pytest.approx(324.457, abs=1e-3)
    size = (4 * recipe_of(method).share * matrices + 4 * others) / 2**20
    assert size == pytest.approx(megabytes, rel=1e-3)


# --- rows -------------------------------------------------------------------------------------------------


def test_held_rows_do_not_depend_on_padding_or_on_the_batch():
    batch = batch_of(rows=200)
    found = aqbert.held(batch, 0.2)
    assert 0.1 < float(found.float().mean()) < 0.3
    filled = {"input_ids": torch.where(batch["attention_mask"] == 0, 7, batch["input_ids"])}
    longer = {name: nn.functional.pad(batch[name], (0, 5)) for name in ("input_ids", "attention_mask")}
    assert torch.equal(aqbert.held(batch | filled, 0.2), found)
    assert torch.equal(aqbert.held(longer, 0.2), found)
    assert not aqbert.held(batch, 0.0).any() and aqbert.held(batch, 1.0).all()


# --- whole models and runs --------------------------------------------------------------------------------


def assigned(bits: list[int], **changes):
    """Return a small model with some bits, as the student gets it; those of the other matrices are 4."""
    model, recipe = model_of(**changes), recipe_of("aqbert_30mb")
    aqbert.apply(model, "quantize", weights=recipe.grid, embeddings=recipe.embeddings, activations=recipe.activations)
    names = list(aqbert.encoder_matrices(model))
    found = dict(zip(names, [*bits, *[4] * (len(names) - len(bits))], strict=True))
    aqbert.assign(model, recipe.grid, found)
    return model, found


def test_a_file_holds_the_bits_and_nothing_of_a_removed_matrix(tmp_path):
    model, bits = assigned([0, 2, 8], hidden_size=96)
    path = tmp_path / "model.safetensors"
    artifact.save(path, model, META)
    packed = artifact.read(path)[1]["packed"]
    for name, width in bits.items():
        entry = packed[f"{name}.weight"]
        assert entry["bits"] == (width or 2)
        assert (entry.get("kept") == 0) == (width == 0)
    loaded, _ = artifact.load(path)
    assert torch.allclose(answers(loaded.eval(), batch_of()), answers(model.eval(), batch_of()), atol=1e-5)
    assert not loaded.get_submodule(next(iter(bits))).weight.any()


def test_a_removed_matrix_stays_so():
    model, bits = assigned([0, 2])
    (stage,) = aqbert.stages(model, recipe_of("aqbert_30mb"), context())
    optimizer, batch = optimizers.build(model, stage.optimization), batch_of()
    for _ in range(3):
        aqbert.objective.labels(aqbert.forward(model, batch), None, batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    removed, other = list(bits)[:2]
    assert not model.get_submodule(removed).weight.any()
    assert not torch.equal(model.get_submodule(other).weight, model_of().get_submodule(other).weight)


@pytest.mark.parametrize("method", ["aqbert_30mb", "aqbert_20mb", "knapsack_3bit"])
def test_a_run_has_the_bits_that_its_search_found_within_the_budget(method, run_method):
    record, folder = run_method(method)
    assert record["status"] == "ok"
    search = CATALOGUE.methods[method]["ancestors"]["allocation"]
    bits = json.loads((run_method(search)[1] / ALLOCATION).read_text())["bits"]
    recipe = recipe_of(method)
    assert len(bits) == 2 * len(PARTS) and set(bits.values()) <= set(recipe.choices)
    packed = artifact.read(folder / "last.safetensors")[1]["packed"]
    total = {name: np.prod(packed[f"{name}.weight"]["shape"]) for name in bits}
    assert sum(bits[name] * total[name] for name in bits) <= recipe.share * 32 * sum(total.values())
    for name, width in bits.items():
        assert packed[f"{name}.weight"]["bits"] == (width or 2)


def test_a_killed_search_finds_what_it_would_have_found(run_method, tmp_path, monkeypatch):
    whole = run_method("aqbert_30mb_search")[1]
    parent, wanted = {"init": run_method("fp32")[1]}, request("aqbert_30mb_search")
    usual = aqbert.learn_choices

    def asked(student, optimizer, step, steps, **options):
        usual(student, optimizer, step, steps, **options)
        if step == 12:
            monkeypatch.setattr(interrupt, "_asked", True)

    with monkeypatch.context() as patched, pytest.raises(interrupt.Interrupted):
        patched.setattr(aqbert, "learn_choices", asked)
        run_method.execute(wanted, tmp_path / "search", parent)
    monkeypatch.setattr(interrupt, "_asked", False)
    record = run_method.execute(wanted, tmp_path / "search", parent)
    assert record["steps"] > 12
    for name in ("run.json", ALLOCATION):
        assert (tmp_path / "search" / name).read_bytes() == (whole / name).read_bytes(), name


def test_the_loss_tells_matrices_of_one_size_apart(run_method):
    """A matrix' gradient by the size is that of its numbers, of which there are two kinds here."""
    allocation = json.loads((run_method("aqbert_20mb_search")[1] / ALLOCATION).read_text())
    assert len({tuple(gains) for gains in allocation["gains"].values()}) > 2


def test_a_measuring_search_weighs_every_width_of_every_matrix(run_method):
    allocation = json.loads((run_method("knapsack_search")[1] / ALLOCATION).read_text())
    assert allocation["bits"].keys() == allocation["gains"].keys()
    assert all(len(gains) == 3 and np.isfinite(gains).all() for gains in allocation["gains"].values())
