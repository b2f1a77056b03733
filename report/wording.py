"""Names and written numbers, the same in tables, figures and on the page."""

METRICS = {
    "accuracy": "accuracy",
    "accuracy_mm": "mismatched",
    "f1": "F1",
    "exact": "exact match",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
SECOND_METRIC = {  # what papers print beside a primary metric, where the task has it
    "accuracy": ("f1", "accuracy_mm"),
    "spearman": ("pearson",),
    "f1": ("exact",),
}
PROTOCOLS = {
    "last": "the model at the end of training",
    "best": "the best model on the development set during training",
}
CONVENTIONS = {
    "paper": "by the paper's convention",
    "counted": "with every parameter, scale and index",
    "file": "of the file on disk",
}


def metric_title(metric: str) -> str:
    return METRICS.get(metric, metric.replace("_", " "))


def shown_metrics(cell: dict) -> list[str]:
    """Return the primary metric, and the second one where papers print two."""
    primary = cell["measured"]["metric"]
    return [primary, *(name for name in SECOND_METRIC.get(primary, ()) if name in cell["measured"]["baseline"]["metrics"])]


def metrics_of(cell: dict) -> list[str]:
    """Return every metric, the primary one first."""
    primary = cell["measured"]["metric"]
    return [primary, *sorted(cell["measured"]["baseline"]["metrics"].keys() - {primary})]


def bits(widths: dict | None) -> str:
    """Return the bits of weights, embeddings and activations, such as 1.4-2-8."""
    return "-".join(width(widths[part]) if widths else "?" for part in ("weights", "embeddings", "activations"))


def width(bits: float) -> str:
    return f"{bits:.1f}".removesuffix(".0")


def score(value: float | None, digits: int = 1) -> str:
    """Return a score with a true minus sign, and without a minus before a rounded zero."""
    if value is None:
        return "none"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign; a rounded zero has none."""
    text = score(value, digits)
    return text if value <= 0 or float(text) == 0 else f"+{text}"


def interval(ends: tuple[float, float], digits: int = 1) -> str:
    return f"{score(ends[0], digits)} to {score(ends[1], digits)}"


def joined(words: list[str]) -> str:
    """Return words as English lists them: "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else "> 0.99" if p > 0.99 else f"= {p:.2g}" if p < 0.1 else f"= {p:.2f}"


def active(size: dict) -> str | None:
    """Return how many parameters one token reads, where that is not all of them: sizes count them all."""
    read = size.get("active_parameters", size["parameters"])
    return (
        None
        if read == size["parameters"]
        else f"reads {count(read)} of its {count(size['parameters'])} parameters for a token"
    )


def mebibytes(size: int | None) -> str:
    if size is None:
        return "not measured"
    return f"{mib(size)} MiB"


def mib(size: int) -> str:
    value = size / 2**20
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def milliseconds(time: float) -> str:
    return f"{time:.3g} ms" if time < 100 else f"{time:.0f} ms"


def count(number: int) -> str:
    return f"{number:,}"


def short(title: str) -> str:
    """Return a title that leaves room for the plot."""
    return title if len(title) <= 30 else title[:29] + "…"


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def points(number: float) -> str:
    return f"{number:g} {'point' if number == 1 else 'points'}"


def diverged(n: int, n_diverged: int) -> str | None:
    return f"diverged ({n_diverged} of {n + n_diverged})" if n_diverged else None


def partial_note(cell: dict) -> str | None:
    """Return both row counts of every split that is not whole, or that training rows stand in for the dev set."""
    dataset = cell["ran_on"]["dataset"]
    if not dataset["partial"]:
        return None
    if share := dataset.get("held_out"):
        return f"scored on {100 * share:g} % of the training rows, held out, and not on the dev set"
    official = dataset["official_rows"] or {}
    parts = [
        f"{split}: {count(rows)} of {count(official[split])} rows"
        for split, rows in sorted(dataset["rows"].items())
        if split in official and rows != official[split]
    ]
    return "; ".join(parts) or "fewer rows than the official data"


def augmentation(cell: dict) -> str | None:
    """Return how the training rows of a cell's runs were augmented; None where they were not."""
    if not (made := cell["ran_on"]["dataset"].get("augmentation")):
        return None
    copies = f"{count(made['copies'])} {'copy' if made['copies'] == 1 else 'copies'}"
    return f"up to {copies} of each text, {count(made['rows'])} training rows in all, substitutes by {made['substitutes']}"


def flat(mapping: dict, prefix: str = ""):
    """Yield nested keys as dotted names, in order, with their values."""
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def plain(value) -> str:
    """Return a value of the recipe as a person would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
