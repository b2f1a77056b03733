"""The catalogue of methods: stanzas, written short, read in full and checked.

They are those of config/methods/{paper}.yaml, and those of the configuration.

A stanza is a method. Three things keep it short:
- `like: NAME` takes over another stanza; its own keys replace that one's, and `recipe` and `ancestors` key by key.
- A name with parameters, such as `lsq_{bits}bit`, and `each: {bits: [2, 3]}` make one stanza for each value.
- A recipe's entry is `[value, source]`, or `[value, {task: value}, source]` where some tasks have another value.

Every recipe is checked here against what the paper's file declares, before any job starts.
"""

import copy
import itertools
import re
from pathlib import Path

from methods.common import options
from methods.common.errors import UserError
from methods.common.options import nearest

KEYS = ("title", "paper", "family", "family_title", "like", "each", "listed", "ancestors", "product", "bits", "deviations")
KEYS += ("recipe",)
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
HOLE = re.compile(r"\{(\w+)\}")  # a parameter in a name
GROUPS = ("weights", "embeddings", "activations")


def read(folder: Path, load, own: dict | None = None) -> dict[str, dict]:
    """Return all stanzas by name, `own` are the configuration's; `load` reads a YAML file. The first mistake is one line."""
    written: dict[str, tuple[dict, str]] = {}
    families = options.papers()
    files = [(f"config/methods/{path.name}", path.stem, load(path)) for path in sorted(folder.glob("*.yaml"))]
    for where, family, content in [*files, ("configuration: stanzas", None, copy.deepcopy(own or {}))]:
        if not isinstance(content, dict):
            raise UserError(f"{where}: expected a mapping from names to stanzas.")
        for name, stanza in content.items():
            _check_shape(stanza, f"{where}: {name}")
            if "like" not in stanza:
                stanza.setdefault("family", family)
            if "each" in stanza and family is None:
                raise UserError(f"{where}: {name}.each: only stanzas of config/methods have it: write one for each value.")
            for made, one in _each(str(name), stanza, f"{where}: {name}"):
                if made in written:
                    raise UserError(f"{where}: {made} is already a stanza of {written[made][1].rpartition(':')[0]}.")
                written[made] = one, f"{where}: {made}"
    found = {name: _in_full(name, written, ()) for name in written}
    for name, stanza in found.items():
        _check(name, stanza, found, families, written[name][1])
    for name in found:
        _check_acyclic([name], found)
    return found


def value_of(entry: list, task: str | None = None):
    """Return the value of a recipe's entry, that of a task where it has its own."""
    tasks = entry[1] if len(entry) == 3 else {}
    return tasks.get(task, entry[0])


def _check_shape(stanza, where: str) -> None:
    if not isinstance(stanza, dict):
        raise UserError(f"{where}: expected a mapping.")
    for key in stanza:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {key!r}. {nearest(key, KEYS)}")
    for key in ("like", "family"):
        if not isinstance(stanza.get(key, ""), str):
            raise UserError(f"{where}.{key}: expected one name.")
    recipe = stanza.get("recipe") or {}
    if not isinstance(recipe, dict):
        raise UserError(f"{where}.recipe: expected a mapping.")
    for key, entry in recipe.items():
        if entry is None and "like" in stanza:
            continue  # takes out what the other stanza has
        fits = isinstance(entry, list) and len(entry) in (2, 3) and isinstance(entry[-1], str) and len(entry[-1]) >= 4
        if not fits or (len(entry) == 3 and not isinstance(entry[1], dict)):
            raise UserError(
                f"{where}.recipe.{key}: write [value, source], or [value, {{task: value}}, source] where tasks differ."
            )
    for key, kind in (("ancestors", dict), ("each", dict), ("deviations", list), ("bits", dict)):
        if not isinstance(stanza.get(key, kind()), kind):
            raise UserError(f"{where}.{key}: expected a {'mapping' if kind is dict else 'list'}.")
    for role, ancestor in stanza.get("ancestors", {}).items():
        if not NAME.fullmatch(str(role)):
            raise UserError(f"{where}.ancestors: {role!r} is no role: use lower-case letters, digits and underscores.")
        if not isinstance(ancestor, str | None):
            raise UserError(f"{where}.ancestors.{role}: expected the name of one method.")
    for parameter, values in stanza.get("each", {}).items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}.each.{parameter}: expected a list of values.")


def _each(name: str, stanza: dict, where: str):
    """Yield a stanza for each combination of the parameters in its name."""
    each = {str(parameter): values for parameter, values in stanza.pop("each", {}).items()}
    holes = HOLE.findall(name)
    if sorted(holes) != sorted(each):
        raise UserError(f"{where}: the name's parameters and the keys of `each` must be the same.")
    for values in itertools.product(*(each[hole] for hole in holes)):
        given = dict(zip(holes, values, strict=True))
        made = HOLE.sub(lambda hole, given=given: str(given[hole[1]]), name)
        if not NAME.fullmatch(made):
            raise UserError(f"{where}: {made!r} is no name of a method: use lower-case letters, digits and underscores.")
        yield made, _filled(stanza, given)


def _filled(value, given: dict):
    """Return a copy with `{parameter}` replaced: a text that is nothing else becomes the value itself."""
    if isinstance(value, dict):
        return {key: _filled(inner, given) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, given) for inner in value]
    if not isinstance(value, str):
        return value
    for name, one in given.items():
        if value == f"{{{name}}}":
            return one
        value = value.replace(f"{{{name}}}", str(one))
    return value


def _in_full(name: str, written: dict, line: tuple[str, ...]) -> dict:
    stanza, where = written[name]
    parent = stanza.get("like")
    if parent is None:
        return {
            "listed": True,
            "product": "model",
            "ancestors": {},
            "deviations": [],
            "recipe": {},
            **{key: value for key, value in stanza.items() if value is not None},
        }
    if parent not in written:
        raise UserError(f"{where}.like: unknown method {parent!r}. {nearest(parent, written)}")
    if parent in line:
        raise UserError(f"{where}.like: {' -> '.join([*line, name, parent])}: a stanza cannot be like itself.")
    above = copy.deepcopy(_in_full(parent, written, (*line, name)))
    above |= {"listed": True, "product": "model"}  # these are of a stanza alone
    above.pop("bits", None)
    if "family" in stanza:
        above.pop("family_title", None)
    for key in ("recipe", "ancestors"):
        own = stanza.get(key) or {}
        merged = above[key] | own
        above[key] = {inner: value for inner, value in merged.items() if value is not None}
    own = {key: value for key, value in stanza.items() if key not in ("recipe", "ancestors", "like")}
    return {**above, **own}


def _check(name: str, stanza: dict, known: dict, families: list[str], where: str) -> None:
    if stanza.get("family") is None:
        raise UserError(f"{where}: write `like: METHOD`, or `family: NAME` for methods/NAME.py.")
    if stanza["family"] not in families:
        raise UserError(
            f"{where}.family: there is no methods/{stanza['family']}.py with a function `student`. "
            f"{nearest(stanza['family'], families)}"
        )
    stanza.setdefault("family_title", stanza["family"])
    for key in ("title", "paper", "family_title"):
        if not isinstance(stanza.get(key), str):
            raise UserError(f"{where}: {key!r} is missing.")
    if not isinstance(stanza["listed"], bool):
        raise UserError(f"{where}.listed: {stanza['listed']!r} must be true or false.")
    if stanza["product"] not in ("model", "allocation"):
        raise UserError(
            f"{where}.product: {stanza['product']!r} is not known. {nearest(stanza['product'], ('model', 'allocation'))}"
        )
    for role, ancestor in stanza["ancestors"].items():
        if ancestor not in known:
            raise UserError(f"{where}.ancestors.{role}: unknown method {ancestor!r}. {nearest(ancestor, known)}")
        is_search = known[ancestor]["product"] == "allocation"
        if is_search and role in ("init", "teacher"):
            raise UserError(
                f"{where}.ancestors.{role}: {ancestor} is a search and leaves no model: name a method that does."
            )
    recipe = stanza["recipe"]
    tasks = {task for entry in recipe.values() if len(entry) == 3 for task in entry[1]}
    for task in (None, *sorted(tasks)):
        values = {key: value_of(entry, task) for key, entry in recipe.items()}
        options.check_recipe(values, stanza["family"], f"{where}.recipe" + (f" (for {task})" if task else ""))
    _check_bits(stanza, where)


def _check_bits(stanza: dict, where: str) -> None:
    """A declared width must be that of the quantizers."""
    derived = options.quantized_bits({key: entry[0] for key, entry in stanza["recipe"].items()})
    for group, bits in (stanza.get("bits") or {}).items():
        if group not in GROUPS:
            raise UserError(f"{where}.bits: unknown key {group!r}. {nearest(group, GROUPS)}")
        if group in derived and derived[group] != bits:
            raise UserError(f"{where}.bits.{group}: {bits} is declared, but the recipe's quantizer has {derived[group]}.")
        if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 32:
            raise UserError(f"{where}.bits.{group}: {bits!r} must be a whole number from 1 to 32.")


def _check_acyclic(line: list[str], known: dict) -> None:
    """Follow every line of descent, through all roles alike."""
    for name in dict.fromkeys(known[line[-1]]["ancestors"].values()):
        if name in line:
            raise UserError(f"config/methods: {' -> '.join([*line, name])}: a method cannot descend from itself.")
        _check_acyclic([*line, name], known)
