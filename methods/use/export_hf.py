"""A model file as a folder that transformers loads: its weights decoded, in the shape of the stock model.

transformers has no layers for what the methods' edits put in, so each becomes the stock layer that computes the same: codes
are multiplied by their steps, factors by one another, and the halves of a split layer are added. Where heads were removed,
zeros fill the stock shape up: such a head has zero values, so nothing that it does shows. Quantizers of activations have no
place in transformers.
"""

import ast
import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.common import files
from methods.common.errors import UserError
from methods.kernel.layers import Factored, Int8Linear, Shifted, SplitLayer
from methods.kernel.quantizers import Quantizer
from methods.model import anatomy as anatomies
from methods.training.forward import INPUTS

PROBLEMS = {"classification": "single_label_classification", "regression": "regression"}
PIPELINES = {"sequence": "text-classification", "span": "question-answering", "token": "token-classification"}
SPECIALS = {  # transformers' names of the tokens, and how tokenizers spell them
    "unk_token": ("[UNK]", "<unk>"),
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}
FULL = "Activations are in full precision, since transformers has no quantizers for them: scores may differ from the run's."
ZEROS = "Removed attention heads are zeros here, since transformers knows no model with fewer."


def write(folder: Path, path: Path, model: nn.Module, meta: dict, tokenizer: str) -> list[str]:
    """Write the folder of a model file; return what a user has to know about it."""
    import transformers

    stock = decoded(model, meta)
    transformers.utils.logging.disable_progress_bar()
    stock.save_pretrained(folder)
    _write_tokenizer(folder, model, tokenizer, meta)
    notes = [FULL] if any(map(_rounds, model.modules())) else []
    notes += [ZEROS] if _width(model) < model.config.hidden_size else []
    run = _run(path)
    (folder / "README.md").write_text(_card(model, meta, run, notes), encoding="utf-8")
    return notes + ([] if run else [f"No run.json of this model is beside {path}: the model card has no scores."])


def decoded(model: nn.Module, meta: dict) -> nn.Module:
    """Return a stock model of transformers that computes what `model` does without its quantizers of activations."""
    import transformers  # all of it, since it is to write its own files

    if any(isinstance(module, Shifted) for module in model.modules()):
        raise UserError("This model shifts the inputs of its layers, which has no stock form: use `--to onnx`.")
    if any(getattr(module, "of_scores", False) for module in model.modules()):
        raise UserError("This model has attention without softmax, which transformers does not know: use `--to onnx`.")
    options = {key: value for key, value in model.record.config.items() if key != "model_type"}
    config = transformers.AutoConfig.for_model(model.config.model_type, **{**options, **_changes(model, meta)})
    stock = getattr(transformers, type(model).__name__)(config).eval()
    state, found = stock.state_dict(), _tensors(model)
    if odd := [name for name in state if name not in found or not _fits(found[name], state[name])]:
        raise UserError(f"{odd[0]!r} has no stock form: transformers knows no layers such as those of this model.")
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.zero_()[tuple(slice(size) for size in found[name].shape)] = found[name]
    return stock


def opened(folder: Path, meta: dict):
    """Return the model of a folder as a function of a batch's inputs."""
    import transformers
    from safetensors.torch import load_file

    # Not by `from_pretrained`, which needs what `methods.model.lean` leaves out of the modelling files.
    model = getattr(transformers, AUTO[meta["head"]]).from_config(transformers.AutoConfig.from_pretrained(folder)).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))

    @torch.no_grad()
    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        output = model(**{name: torch.from_numpy(array) for name, array in batch.items()}, return_dict=True)
        return torch.cat([output[name] for name in ("logits", "start_logits", "end_logits") if name in output]).numpy()

    return run


AUTO = {
    "sequence": "AutoModelForSequenceClassification",
    "span": "AutoModelForQuestionAnswering",
    "token": "AutoModelForTokenClassification",
}


def without_activations(model: nn.Module) -> nn.Module:
    """Let a model pass its activations on as they are."""
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.forward = _unchanged
        elif isinstance(module, Int8Linear):
            module.forward = functools.partial(F.linear, weight=_weight(module), bias=module.bias)
    return model


def _unchanged(x: Tensor, index: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    return x


def _rounds(module: nn.Module) -> bool:
    return isinstance(module, Int8Linear) or getattr(module, "role", "") == "activations"


def _changes(model: nn.Module, meta: dict) -> dict:
    """Return what a configuration says beside the shape of the encoder that the model was made from."""
    layers, labels = anatomies.layers(model), dict(enumerate(meta["labels"]))
    functions = [edit["function"] for edit in model.record.edits if edit["kind"] == "activate"]
    return {
        "num_hidden_layers": len(layers),
        "intermediate_size": len(_bias(layers[0]["intermediate"])),
        "num_labels": max(model.record.outputs, 1),
        **({"hidden_act": functions[-1]} if functions else {}),
        **({"id2label": labels, "label2id": {label: at for at, label in labels.items()}} if labels else {}),
        **({"problem_type": PROBLEMS[meta["kind"]]} if meta["kind"] in PROBLEMS else {}),
    }


def _width(model: nn.Module) -> int:
    """Return the numbers that the heads of a layer have together."""
    return min(layer.attention.all_head_size for layer in anatomies.layers(model))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of the stock layers in the places of ours."""
    found, inside = {}, ()
    for name, module in model.named_modules():
        if name.startswith(inside) and inside:
            continue
        if isinstance(module, Factored | SplitLayer | Int8Linear):
            inside += (f"{name}.",)
            found |= {f"{name}.weight": _weight(module), f"{name}.bias": _bias(module)}
        else:
            found |= {f"{name}.{own}": tensor.detach() for own, tensor in module.named_parameters(recurse=False)}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _weight(layer: nn.Module) -> Tensor:
    """Return the one matrix that computes what a layer does."""
    match layer:
        case Factored():
            first, second = (_weight(one).double() for one in layer)
            return (first @ second.T if _is_table(layer) else second @ first).float()
        case SplitLayer():
            return _weight(layer.first) + _weight(layer.second)
        case Int8Linear():
            return layer.weight.float() * layer.weight_step
    return layer.weight.detach()


def _bias(layer: nn.Module) -> Tensor | None:
    match layer:
        case Factored():
            return _bias(layer[1])
        case SplitLayer():
            return _bias(layer.first)
    return getattr(layer, "bias", None)


def _is_table(layer: nn.Module) -> bool:
    match layer:
        case Factored():
            return _is_table(layer[0])
        case SplitLayer():
            return _is_table(layer.first)
    return isinstance(layer, nn.Embedding)


def _fits(tensor: Tensor, place: Tensor) -> bool:
    return tensor.dim() == place.dim() and all(ours <= stock for ours, stock in zip(tensor.shape, place.shape, strict=True))


def _write_tokenizer(folder: Path, model: nn.Module, tokenizer: str, meta: dict) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    fast = Tokenizer.from_str(tokenizer)
    known = {name: form for name, forms in SPECIALS.items() for form in forms if fast.token_to_id(form) is not None}
    inputs = [name for name in INPUTS if name != "token_type_ids" or anatomies.anatomy(model).segments]
    options = {"model_max_length": meta["max_length"], "model_input_names": inputs, **known}
    PreTrainedTokenizerFast(tokenizer_object=fast, **options).save_pretrained(folder)


def _run(path: Path) -> dict | None:
    """Return the record of the run that made a model file, if it is beside it."""
    record = path.with_name("run.json")
    if not record.is_file():
        return None
    run = files.read_object(record, ("files", "scores", "metric"))
    return run if run["files"].get(path.name) == files.sha256_file(path) else None


CARD = """# {method} on {task}

- Method: `{method}`. {paper}.
- Task: {task}, seed {seed}.
- Every weight has the value that its code in the packed model file means.

- Inputs: {columns}, cut to {max_length} tokens.
- Data: {data}.
- Base model: {base}.
- Weights: the run's {protocol} ones, of step {step}.
{notes}
{scores}"""
SCORES = """
## Scores

Of the packed file, on the task's dev rows, in percent. {baseline}

| metric | score |
|---|---|
{rows}
"""


def _card(model: nn.Module, meta: dict, run: dict | None, notes: list[str]) -> str:
    """Return the model card."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    metrics = run["scores"][meta["protocol"]]["metrics"] if run else {}
    task, made = PIPELINES[meta["head"]], (run or {}).get("ran_on", {}).get("data", {})
    dataset = {"dataset_type": meta["task"], "dataset_name": f"{meta['task']} ({meta['preset']})"}
    results = [
        EvalResult(task_type=task, metric_type=name, metric_value=round(value, 2), **dataset)
        for name, value in metrics.items()
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        tags=["bert", "quantization", meta["method"]],
        **({"model_name": f"{meta['method']} {meta['task']}", "eval_results": results} if results else {}),
    )
    source = " ".join(str(made[key]) for key in ("source", "dataset", "config", "revision") if made.get(key))
    text = CARD.format(
        **{key: meta[key] for key in ("method", "task", "seed", "max_length", "protocol", "step")},
        paper=_paper(meta["spec"]["family"]),
        columns=" and ".join(meta["columns"]),
        data=source or f"preset {meta['preset']}",
        base=meta["tokenizer"]["id"],
        notes="".join(f"- {note}\n" for note in notes),
        scores=_scores(metrics, run) if run else "",
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def _paper(family: str) -> str:
    """Return what a paper's file says of itself: its title and where it was published."""
    path = Path(__file__).parents[1] / f"{family}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else None
    return (text or family).partition("\n")[0].partition(":")[0]


def _scores(metrics: dict[str, float], run: dict) -> str:
    rows = "\n".join(f"| {name} | {value:.2f} |" for name, value in metrics.items())
    baseline = run.get("baseline")
    best = f"The best constant answer has {baseline['metrics'][run['metric']]:.2f} {run['metric']}." if baseline else ""
    return SCORES.format(rows=rows, baseline=best)
