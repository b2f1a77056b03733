"""MoEBERT: which neurons an expert gets, which expert a token takes, the losses, and what the file and the records hold."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from methods import engine, moebert
from methods.common import interrupt
from methods.common.errors import UserError
from methods.kernel.trace import Trace, tracing
from methods.model import artifact
from methods.model.anatomy import layers
from methods.model.edits import apply
from methods.model.encoder import build, from_base, known
from methods.tasks import kinds
from methods.training import objective
from methods.training.forward import forward
from methods.use import export, inspection
from tests.fixtures.models import KINDS, META, answers, batch_of, bert_base, model_of, parameters
from tests.fixtures.runs_of_methods import FILES, recipe_of
from tests.fixtures.world import CONFIG, SHARED, context, loader, tiny

GOLDEN = SHARED / "golden/more_moebert.npz"
BASE = {"kind": "moebert.experts", "count": 4, "width": 768, "shared": 512}  # on bert-base


def context_of(batches: list, seed: int = 1) -> SimpleNamespace:
    """Return a context whose sample starts anew at each use."""
    found = context()
    found.sample, found.loader = batches, SimpleNamespace(seed=seed)
    return found


def with_experts(kind: str = "classification", count: int = 3, seed: int = 0, **changes):
    """Return a small model with experts and random tables."""
    model = apply(model_of(kind, **changes), "moebert.experts", count=count, width=8, shared=4)
    generator = torch.Generator().manual_seed(seed)
    for member in moebert.routed(model):
        member.table.copy_(moebert.table(len(member.table), count, generator))
    return model.eval()


# --- sizes ------------------------------------------------------------------------------------------------


def test_bert_base_has_as_many_parameters_as_the_paper_stored_and_active():
    model = bert_base(BASE)
    counts = {name: param.numel() for name, param in model.named_parameters() if "classifier" not in name}
    assert parameters(model) == sum(counts.values()) == 109_565_184
    assert artifact.active_parameters(model, counts) == 66_987_264
    encoder = {name: count for name, count in counts.items() if ".encoder." in name}
    assert artifact.active_parameters(model, encoder) == 42_559_488
    plain = bert_base()
    whole = {name: param.numel() for name, param in plain.named_parameters()}
    assert artifact.active_parameters(plain, whole) == sum(whole.values())


def test_the_recipe_gives_bert_base_the_papers_experts(monkeypatch):
    made = {}
    monkeypatch.setattr(moebert, "importance", lambda *_: torch.zeros(12, 3072))
    monkeypatch.setattr(moebert, "order_neurons", lambda *_: None)
    monkeypatch.setattr(moebert, "routed", lambda _: [])
    monkeypatch.setattr(moebert, "apply", lambda model, kind, **options: made.update(kind=kind, **options))
    moebert.student(bert_base(), recipe_of("moebert"), context_of([]))
    assert made == BASE


# --- neurons ----------------------------------------------------------------------------------------------


def test_neurons_are_dealt_behind_those_that_all_share():
    found = moebert.expert_neurons(torch.tensor([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]), count=2, width=4, shared=2)
    assert found.tolist() == [[9, 8, 7, 5], [9, 8, 6, 4]]  # 3 to 0 are dropped
    assert moebert.expert_neurons(torch.arange(5), count=1, width=5, shared=2).tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(("count", "width", "shared"), [(4, 8, 0), (2, 4, 5), (65, 1, 1), (1, 17, 0)])
def test_experts_that_the_neurons_do_not_suffice_for_are_refused(count, width, shared):
    with pytest.raises(UserError, match="experts"):
        moebert.expert_neurons(torch.arange(16), count, width, shared)


@pytest.mark.parametrize("kind", KINDS)
def test_importance_equals_a_slow_twin_that_takes_one_example_at_a_time(kind):
    model, batches = model_of(kind), [batch_of(kind, rows=3, seed=seed) for seed in (1, 2)]
    expected = torch.zeros(2, 32)
    for batch in batches:
        for row in range(3):
            one = {name: x if name == "kind" else x[row : row + 1] for name, x in batch.items()}
            model.zero_grad()
            objective.labels(forward(model, one), None, one).sum().backward()
            for number, layer in enumerate(layers(model)):
                first, second = layer["intermediate"].weight, layer["output"].weight
                expected[number] += ((first * first.grad).sum(1) + (second * second.grad).sum(0)).abs().detach()
    found = moebert.importance(model, batches)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not any(layer["output"]._forward_pre_hooks for layer in layers(model)), "hooks are gone"


def test_a_model_with_other_neurons_first_computes_what_it_did():
    model, batch = model_of(), batch_of()
    before = answers(model, batch)
    scores = moebert.importance(model, [batch])
    for layer, order in zip(layers(model), scores.argsort(dim=1, descending=True), strict=True):
        moebert.order_neurons(layer, order)
    assert torch.allclose(answers(model, batch), before, atol=1e-5)
    assert torch.allclose(
        moebert.importance(model, [batch]), scores.sort(dim=1, descending=True).values, rtol=1e-3, atol=1e-6
    )


# --- layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_one_expert_of_full_width_is_the_stock_model(kind):
    """In scoring, and in training too, where dropout falls on the same places."""
    stock, batch = model_of(kind), batch_of(kind)
    student = moebert.student(model_of(kind), recipe_of("moebert", count=1, width=1.0, shared=0.5), context_of([batch]))
    assert torch.allclose(answers(student.eval(), batch), answers(stock, batch), atol=1e-5)
    found = []
    for model in (student, stock):
        torch.manual_seed(5)
        found.append(answers(model.train(), batch))
    assert torch.allclose(*found, atol=1e-5)
    assert not torch.allclose(found[1], answers(stock.eval(), batch), atol=1e-3)


def test_another_encoder_has_experts_too():
    changes = {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 30}
    torch.manual_seed(0)
    model, batch = build({**CONFIG, **changes}, "sequence", 3).eval(), batch_of()
    batch["input_ids"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"], 1)
    before = answers(model, batch)
    apply(model, "moebert.experts", count=1, width=32, shared=0)
    assert torch.allclose(answers(model.eval(), batch), before, atol=1e-5)


def test_each_token_takes_the_expert_of_its_table():
    model, batch = with_experts(), batch_of()
    member = moebert.routed(model)[0]
    x, ids = torch.randn(5, 12, 16), batch["input_ids"]
    with tracing(Trace(ids, batch["attention_mask"])):
        found = member(x, x)
    for row in range(5):
        for place in range(12):
            expert = member.experts[int(member.table[ids[row, place]])]
            middle = expert.activation(x[row, place] @ expert.fc1.weight.T + expert.fc1.bias)
            summed = middle @ expert.fc2.weight.T + expert.fc2.bias + x[row, place]
            normal = torch.nn.functional.layer_norm(summed, (16,), expert.LayerNorm.weight, expert.LayerNorm.bias, 1e-12)
            assert torch.allclose(found[row, place], normal, atol=1e-5)


def test_an_expert_without_tokens_gets_no_gradient_and_the_others_do():
    model, batch = with_experts(), batch_of()
    for member in moebert.routed(model):
        member.table.fill_(1)
    objective.labels(forward(model, batch), None, batch).sum().backward()
    for member in moebert.routed(model):
        sums = [sum(float(param.grad.abs().sum()) for param in expert.parameters()) for expert in member.experts]
        assert sums[0] == sums[2] == 0 < sums[1]


def test_experts_have_dropout_in_training_and_none_in_scoring():
    model, batch = with_experts(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.0), batch_of()
    assert torch.equal(answers(model, batch), answers(model, batch))
    member, x = moebert.routed(model.train())[0], torch.randn(5, 12, 16)
    with tracing(Trace(batch["input_ids"], batch["attention_mask"])):
        assert not torch.equal(member(x, x), member(x, x))


def test_padding_changes_no_answer_and_no_loss():
    teacher, model, batch = model_of(), with_experts(), batch_of()
    longer = {
        name: torch.nn.functional.pad(x, (0, 9)) if name != "kind" and x.dim() == 2 else x for name, x in batch.items()
    }
    wanted = frozenset({"hidden"})
    found = []
    for one in (batch, longer):
        student, taught = (forward(which, one, wanted) for which in (model, teacher))
        found.append((student.logits[0], objective.hidden(student, taught, one), moebert.symmetric_kl(student, taught, one)))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_model_without_a_trace_is_refused():
    batch = batch_of()
    with pytest.raises(RuntimeError, match="experts are chosen by token ids"):
        with_experts()(input_ids=batch["input_ids"])


def test_experts_are_made_of_full_precision():
    model = apply(tiny(), "quantize", weights={"kind": "ternary"})
    with pytest.raises(UserError, match="full precision"):
        apply(model, "moebert.experts", count=2, width=8, shared=4)


# --- tables -----------------------------------------------------------------------------------------------


def test_random_tables_are_even_and_depend_on_the_seed_and_the_layer():
    generator = torch.Generator().manual_seed(3)
    first, second = (moebert.table(4000, 4, generator) for _ in range(2))
    assert first.dtype == torch.uint8
    assert all(900 < int((first == expert).sum()) < 1100 for expert in range(4))
    assert not torch.equal(first, second)
    assert torch.equal(first, moebert.table(4000, 4, torch.Generator().manual_seed(3)))


def test_words_go_to_the_expert_with_the_smallest_load():
    frequencies = torch.tensor([1, 9, 0, 4, 4, 2])
    # 9 to expert 0; 4 and 4 to expert 1 (loads 9, 8); 2 to expert 1 (9, 10); 1 to expert 0.
    assert moebert.balanced(frequencies, 2).tolist() == [0, 0, 0, 1, 1, 1]
    assert moebert.balanced(frequencies, 2, order=[0, 1, 3, 4, 5]).tolist() == [0, 1, 0, 0, 0, 0]
    drawn = {int(moebert.table(6, 2, torch.Generator().manual_seed(seed), frequencies)[2]) for seed in range(20)}
    assert drawn == {0, 1}, "a word that training never sees"


def test_training_frequencies_leave_padding_out():
    batch = {
        "input_ids": torch.tensor([[1, 2, 2, 0], [3, 2, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]),
    }
    assert moebert.count_words([batch, batch], 5).tolist() == [0, 2, 6, 2, 0]


def test_a_balanced_student_shares_the_training_words_out(base):
    batch = batch_of() | {"labels": torch.tensor([0, 1, 0, 1, 1])}
    student = moebert.student(from_base(base, "sequence", 2, 1), recipe_of("moebert_balanced"), context_of([batch]))
    counts = moebert.count_words([batch], len(moebert.routed(student)[0].table))
    for member in moebert.routed(student):
        loads = [int(counts[member.table == expert].sum()) for expert in range(4)]
        assert max(loads) - min(loads) <= counts.max()
    others = moebert.student(from_base(base, "sequence", 2, 1), recipe_of("moebert"), context_of([batch], seed=2))
    assert not torch.equal(moebert.routed(others)[0].table, moebert.routed(others)[1].table)


# --- losses -----------------------------------------------------------------------------------------------


def trace_of(*logits) -> SimpleNamespace:
    return SimpleNamespace(logits=tuple(torch.tensor(one) for one in logits))


def test_symmetric_divergence_by_hand():
    batch = {"kind": kinds.of("classification")}
    ours, theirs = trace_of([[0.0, np.log(3.0)]]), trace_of([[0.0, 0.0]])  # 1/4 and 3/4 against halves
    p, q = np.array([0.25, 0.75]), np.array([0.5, 0.5])
    expected = ((p - q) * np.log(p / q)).sum() / 2
    assert float(moebert.symmetric_kl(ours, theirs, batch)) == pytest.approx(expected, rel=1e-6)
    assert float(moebert.symmetric_kl(theirs, ours, batch)) == pytest.approx(expected, rel=1e-6)
    assert float(moebert.symmetric_kl(ours, ours, batch)) == 0


def test_numbers_have_a_squared_error_and_spans_the_mean_of_both_ends():
    batch = {"kind": kinds.of("regression")}
    assert moebert.symmetric_kl(trace_of([[3.0]]), trace_of([[1.0]]), batch).tolist() == [4]
    span = {"kind": kinds.of("span"), "attention_mask": torch.tensor([[1, 1, 0]])}
    ours, theirs = trace_of([[0.0, 1.0, 9.0]], [[2.0, 0.0, 9.0]]), trace_of([[0.0, 0.0, -9.0]], [[0.0, 0.0, 5.0]])
    ends = []
    for at in range(2):
        p, q = (one.logits[at][0, :2].softmax(0) for one in (ours, theirs))
        ends.append(float(((p - q) * (p / q).log()).sum()) / 2)
    assert float(moebert.symmetric_kl(ours, theirs, span)) == pytest.approx(sum(ends) / 2, rel=1e-5)


def test_the_stage_weighs_distillation_as_the_recipe_says(sst2):
    (stage,) = moebert.stages(None, recipe_of("moebert", "mnli"), context_of([]))
    assert stage.passes[0].objective.weights == {"hidden": 5.0, "labels": 1.0, "symmetric_kl": 5.0}
    assert (stage.optimization.lr, stage.optimization.epochs) == (5e-5, 5)


# --- files and records ------------------------------------------------------------------------------------


def test_a_file_routes_as_its_student_does_and_tells_both_counts(run_method, sst2):
    record, folder = run_method("moebert")
    path, student = folder / "last.safetensors", run_method.students[folder]
    model, meta = artifact.load(path)
    assert meta["edits"] == [{"kind": "moebert.experts", "count": 4, "width": 8, "shared": 5}]
    for ours, theirs in zip(moebert.routed(model), moebert.routed(student), strict=True):
        assert torch.equal(ours.table, theirs.table) and ours.table.unique().numel() == 4
    batch = next(loader(sst2, "validation").sample(16))
    assert torch.equal(answers(model.eval(), batch), answers(student.eval(), batch))
    size = record["size"]["last"]
    stored = sum(param.numel() for param in student.parameters())
    idle = 0.75 * sum(param.numel() for member in moebert.routed(student) for param in member.parameters())
    assert (size["parameters"], size["active_parameters"]) == (stored, stored - idle)
    assert size["paper_bytes"] == 4 * parameters(student)
    assert size["groups"]["integer tables"] == {"parameters": 0, "bytes": 2 * student.config.vocab_size}
    assert inspection.facts(path)["size"] == size
    page = inspection.page(inspection.facts(path), layers=False)
    assert f"parameters  {stored:,} stored, {stored - int(idle):,} read for a token" in page


def test_every_parameter_of_another_method_is_active(run_method):
    record, folder = run_method("fp32")
    size = record["size"]["last"]
    assert size["active_parameters"] == size["parameters"]
    assert f"parameters  {size['parameters']:,}\n" in inspection.page(
        inspection.facts(folder / "last.safetensors"), layers=False
    )


def test_a_killed_run_ends_with_the_same_bytes(run_method, monkeypatch):
    whole = run_method("moebert_balanced")[1]
    looks = iter([False] * 6 + [True])
    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "asked", lambda: next(looks))
        with pytest.raises(interrupt.Interrupted):
            run_method("moebert_balanced", copy="stopped")
    resumed = run_method("moebert_balanced", copy="stopped")[1]
    assert json.loads((resumed / "machine.json").read_text())["resumed"] == 1
    for name in FILES:
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_table_that_names_an_expert_that_is_none_is_refused(tmp_path):
    model, path = with_experts(), tmp_path / "model.safetensors"
    moebert.routed(model)[1].table[5] = 3
    artifact.save(path, model, META)
    with pytest.raises(UserError, match="a table names expert 3 of 3"):
        artifact.load(path)


@pytest.mark.parametrize("options", [{"count": 4000}, {"width": 4000}, {"shared": 9}, {"count": 2}])
def test_a_strangers_experts_are_one_line(options, tmp_path):
    model, path = with_experts(), tmp_path / "model.safetensors"
    model.record.edits[0] |= options
    artifact.save(path, model, META)
    with pytest.raises(UserError, match="make it again"):
        artifact.load(path)


def test_the_engine_and_exports_refuse_it_by_name(run_method, base_path, tmp_path):
    path = run_method("moebert")[1] / "last.safetensors"
    with pytest.raises(engine.Unsupported, match=r"'moebert\.experts'"):
        engine.open_session(path)
    with pytest.raises(UserError, match=r"'moebert\.experts'"):
        export.to_hf(path, tmp_path / "hf", base_path)
    with pytest.raises(UserError, match=r"'moebert\.experts'"):
        export._read(path, base_path)  # what `to_onnx` begins with; onnx itself may be missing


# --- the official code's outputs --------------------------------------------------------------------------

golden = pytest.mark.skipif(not GOLDEN.is_file(), reason="the official implementation's outputs are not here")


@pytest.fixture(scope="module")
def arrays():
    return np.load(GOLDEN)


def golden_model(arrays, who: str):
    """Return a model of the golden file; the student's tables are the first of its arrays' hash lists."""
    config = json.loads(str(arrays["config"]))
    model = build({**known(config), "model_type": "bert"}, "sequence", 3)
    if who == "student":
        options = {"count": config["experts"], "width": config["expert_width"], "shared": config["shared"]}
        apply(model, "moebert.experts", **options)
        for member, row in zip(moebert.routed(model), arrays["hash_list"], strict=True):
            member.table.copy_(torch.from_numpy(row))
    weights = {name.removeprefix(f"{who}."): arrays[name] for name in arrays.files if name.startswith(f"{who}.")}
    state = {our_name(name): torch.from_numpy(array) for name, array in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith(".table") for name in missing)
    return model.eval()


def our_name(name: str) -> str:
    return name.replace(".experts.experts.", ".output.experts.")


def golden_batch(arrays, name: str) -> dict:
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    return {key: torch.from_numpy(arrays[f"{name}.{key}"]) for key in names} | {"kind": kinds.of("classification")}


def relative(ours, theirs) -> float:
    ours, theirs = torch.as_tensor(ours).detach().double(), torch.as_tensor(theirs).double()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))


@golden
def test_golden_importance_and_the_experts_neurons(arrays):
    config = json.loads(str(arrays["config"]))
    found = moebert.importance(
        golden_model(arrays, "model"), [golden_batch(arrays, f"importance_batch.{at}") for at in range(3)]
    )
    assert relative(found, arrays["importance"]) <= 1e-5
    orders = found.argsort(dim=1, descending=True, stable=True)
    assert np.array_equal(orders, arrays["importance_order"])
    shape = (config["experts"], config["expert_width"], config["shared"])
    experts = torch.stack([moebert.expert_neurons(order, *shape) for order in orders])
    assert np.array_equal(experts, arrays["expert_neurons"])


@golden
def test_golden_student_losses_and_gradients(arrays):
    student, teacher = (golden_model(arrays, who) for who in ("student", "teacher"))
    batch, wanted = golden_batch(arrays, "batch"), frozenset({"hidden"})
    with torch.no_grad():
        theirs = forward(teacher, batch, wanted)
    ours = forward(student, batch, wanted)
    assert relative(ours.logits[0], arrays["student_logits"]) <= 1e-5
    assert relative(theirs.logits[0], arrays["teacher_logits"]) <= 1e-5
    for at, state in enumerate(ours.shown["hidden"]):
        assert relative(state, arrays[f"student_hidden.{at}"]) <= 1e-5
    task, divergence = (term(ours, theirs, batch).mean() for term in (objective.labels, moebert.symmetric_kl))
    distill = objective.hidden_padded(ours, theirs, batch).mean() + divergence  # the code averages over padding too
    loss = task + 5 * distill
    losses = {"loss_labels": task, "loss_symmetric_kl": divergence, "loss_distill": distill, "loss": loss}
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(float(arrays[name]), rel=1e-5), name
    loss.backward()
    own = dict(student.named_parameters())
    names = [name for name in arrays.files if name.startswith("grad.") and not name.endswith("key.bias")]
    assert len(names) > 30
    for name in names:
        assert relative(own[our_name(name.removeprefix("grad."))].grad, arrays[name]) <= 1e-4, name


@golden
def test_golden_layer_and_balanced_table(arrays):
    student, ids = golden_model(arrays, "student"), torch.from_numpy(arrays["batch.input_ids"])
    member, x = moebert.routed(student)[0], torch.from_numpy(arrays["layer.x"])
    with tracing(Trace(ids, torch.ones_like(ids))):
        assert relative(member(x, x), arrays["layer.hash.out"]) <= 1e-5
    assert np.array_equal(member.table[ids].flatten().bincount(minlength=4), arrays["layer.hash.load"])
    frequency = torch.from_numpy(arrays["balance.frequency"])
    seen, order = arrays["balance.frequency"] > 0, np.argsort(arrays["balance.frequency"])[::-1]
    found = moebert.balanced(frequency, 4, order.tolist()).numpy()
    assert np.array_equal(found[seen], arrays["balance.bucket"][seen])
    ours = moebert.balanced(frequency, 4).numpy()
    assert np.bincount(ours, weights=frequency, minlength=4).tolist() == arrays["balance.bucket_size"].tolist()
