"""XTC (Wu et al. 2022, arXiv 2206.01859): binary or ternary weights by long, plain distillation, on fewer layers too.

Weights have one step a matrix and one a row of the word embedding; inputs of linear maps are quantized token by token;
the pooler and the operands of attention are not quantized. A shallow student takes over layers of the teacher, is
distilled in full precision in a run of its own, and is quantized from there. Official code: DeepSpeedExamples,
compression/bert, and DeepSpeed, compression/utils.py.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from methods.common.options import Bits, Count, Quantizer
from methods.kernel import grids, quantizers
from methods.model.edits import apply, edit
from methods.training.context import Context
from methods.training.recipe import Stage, Training, stage


@dataclass(kw_only=True)
class Recipe(Training):
    """The depth of the student and its quantizers; either may be left to the model that it starts from.

    `layers_of_12` is the number of layers on a base with 12; other bases keep as large a share. `official_grid` puts
    activations on DeepSpeed's own grid (see `Levels`).
    """

    layers_of_12: Count | None = None
    weights: Quantizer | None = None
    embeddings: Quantizer | None = None
    activations: Quantizer | None = None
    official_grid: bool = False


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    if recipe.layers_of_12 is not None:
        apply(init, "layers", keep=kept(init.config.num_hidden_layers, recipe.layers_of_12))
    if recipe.weights is not None:
        places = {"weights": recipe.weights, "embeddings": recipe.embeddings, "activations": recipe.activations}
        apply(init, "quantize", **places, attention=False, pooler=False)
    if recipe.official_grid:
        apply(init, "xtc.levels", bits=recipe.activations["bits"])
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    return [stage(recipe, context.budget, mapped(recipe.terms, layers_kept(student)))]


def kept(depth: int, layers_of_12: int) -> list[int]:
    """Return the layers that a student keeps, counted from 0: evenly spaced, in the middle of the teacher's.

    Of 12 layers, 6 are 1, 3, 5, 7, 9, 11 and 5 are 2, 4, 6, 8, 10, as in the official configurations. Shares are rounded
    down, to one layer at least: half of three layers is the middle one.
    """
    count = max(1, layers_of_12 * depth // 12)
    spacing = depth // count
    left_over = depth - ((count - 1) * spacing + 1)
    first = (left_over + 1) // 2
    return [first + spacing * at for at in range(count)]


def layers_kept(student: nn.Module) -> list[int] | None:
    """Return the layers of the teacher that a student was made of, in this run or an earlier one; None for all of them."""
    return next((edit["keep"] for edit in reversed(student.record.edits) if edit["kind"] == "layers"), None)


def maps(keep: list[int]) -> dict[str, list[int]]:
    """Return which of the teacher's layers and states a student follows that was made of these layers.

    Its scores follow those of the layers that it was made of, its states what came out of them; its embedding output
    follows what went into the first of them (code: util.py, `rep_list`).
    """
    return {"attention": keep, "hidden": [max(keep[0] - 1, 0), *(layer + 1 for layer in keep)]}


def mapped(terms: dict, keep: list[int] | None) -> dict:
    """Return a recipe's terms with the maps of a student that was made of these layers."""
    if keep is None:
        return terms
    options = {name: weight if isinstance(weight, dict) else {"weight": weight} for name, weight in terms.items()}
    return {name: {**given, **_map(name, keep)} for name, given in options.items()}


def _map(term: str, keep: list[int]) -> dict:
    found = maps(keep).get(term.removesuffix("_padded"))
    return {"map": found} if found else {}


class Levels(quantizers.Quantizer):
    """DeepSpeed's grid, each row by itself: 2^b equal parts of its range (code: compression/utils.py).

    The symmetric grid has no level for the largest positive value, the asymmetric one none for the largest value of all.
    Values on the grid therefore move when they are quantized again, and no stanza can name it as the kind of a weight.
    """

    kind = "levels"
    rows = True

    def __init__(self, bits: Bits, symmetric: bool = True):
        super().__init__()
        self.bits, self.symmetric = bits, symmetric
        half = 2 ** (bits - 1)
        self.codes_from, self.codes_to = (-half, half - 1) if symmetric else (0, 2**bits - 1)

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        low, high = x.aminmax(dim=-1, keepdim=True)
        return grids.parts, x, low, high, self.bits, self.symmetric


@edit
def levels(model: nn.Module, bits: Bits) -> None:
    """Put the inputs of quantized linear maps on DeepSpeed's symmetric grid."""
    for module in model.modules():
        if isinstance(getattr(module, "input_quantizer", None), quantizers.Quantizer):
            module.input_quantizer = Levels(bits)
            module.input_quantizer.role = "activations"
