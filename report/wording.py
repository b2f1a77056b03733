"""How things are called and how numbers are written, the same in tables, plots and on the page."""

TASKS = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "qqp": "QQP",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
    "wnli": "WNLI",
    "squad": "SQuAD 1.1",
    "squad2": "SQuAD 2.0",
}
METRICS = {
    "accuracy": "accuracy",
    "accuracy_mm": "mismatched",
    "f1": "F1",
    "exact": "exact match",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
SECOND_METRIC = {  # where the papers' tables give two numbers, the one beside the primary metric
    "mrpc": "f1",
    "qqp": "f1",
    "stsb": "pearson",
    "mnli": "accuracy_mm",
    "squad": "exact",
    "squad2": "exact",
}
PROTOCOLS = {
    "last": "the model at the end of training",
    "best": "the best on the development set during training",
}
CONVENTIONS = {
    "paper": "by the paper's convention",
    "counted": "every parameter, scale and index counted",
    "file": "the file on disk",
}


def title(cell: dict) -> str:
    return str(cell["request"]["spec"].get("title", cell["request"]["method"]))


def task_title(task: str) -> str:
    return TASKS.get(task, task)


def metric_title(metric: str) -> str:
    return METRICS.get(metric, metric.replace("_", " "))


def shown_metrics(cell: dict) -> list[str]:
    """The primary metric, and the second one where papers print two."""
    primary, second = cell["measured"]["metric"], SECOND_METRIC.get(cell["request"]["task"])
    return [primary, second] if second in cell["measured"]["baseline"]["metrics"] else [primary]


def metrics_of(cell: dict) -> list[str]:
    """Every metric, the primary one first."""
    primary = cell["measured"]["metric"]
    return [primary, *sorted(cell["measured"]["baseline"]["metrics"].keys() - {primary})]


def bits(spec: dict) -> str:
    widths = spec.get("bits", {})
    return "-".join(str(widths.get(part, "?")) for part in ("weights", "embeddings", "activations"))


def score(value: float | None, digits: int = 1) -> str:
    """A score with a true minus sign, and no minus before a rounded zero."""
    if value is None:
        return "none"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, which a zero does not have."""
    text = score(value, digits)
    return text if value <= 0 or float(text) == 0 else f"+{text}"


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else "> 0.99" if p > 0.99 else f"= {p:.2g}" if p < 0.1 else f"= {p:.2f}"


def mebibytes(size: int | None) -> str:
    if size is None:
        return "not measured"
    return f"{mib(size)} MiB"


def mib(size: int) -> str:
    value = size / 2**20
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def milliseconds(latency) -> str:
    """A measured time, a simulated one marked as such, or the word for why there is none."""
    if isinstance(latency, str):
        return latency
    return f"{latency['milliseconds']:.3g} ms{' simulated' if latency['simulated'] else ''}"


def count(number: int) -> str:
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def diverged(n: int, n_diverged: int) -> str | None:
    return f"diverged ({n_diverged} of {n + n_diverged})" if n_diverged else None


def partial_note(cell: dict) -> str | None:
    """Both row counts of the splits that are not whole, in words."""
    dataset = cell["ran_on"]["dataset"]
    if not dataset["partial"]:
        return None
    official = dataset["official_rows"] or {}
    parts = [
        f"{split}: {count(rows)} of {count(official[split])} rows"
        for split, rows in sorted(dataset["rows"].items())
        if split in official and rows != official[split]
    ]
    return "; ".join(parts) or "fewer rows than the official data"


def flat(mapping: dict, prefix: str = ""):
    """Nested keys as dotted names, in order, with their values."""
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def plain(value) -> str:
    """A value of the recipe as a person would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
