"""What was measured of one cell's predictions, in sentences."""

from collections.abc import Iterator

from report.evidence.board import Board
from report.evidence.latency import NOT_MEASURED, Setting, Speed
from report.wording import count, mebibytes, milliseconds, plural, score


def sentences(board: Board, cell: dict) -> Iterator[str]:
    """Yield in sentences what was measured of predictions, and through which engine; or why nothing was."""
    found, method, task = cell["measured"]["latency"], cell["request"]["method"], cell["request"]["task"]
    if found == NOT_MEASURED or found["engine"] is None:
        why = "" if found == NOT_MEASURED else f" ({found['reason']})"
        yield f"Time of a sentence: {NOT_MEASURED}{why}."
        return
    alone, batched = found["batches"]["1"], found["batches"]["32"]
    yield (
        f"One sentence: {milliseconds(alone['median_ms'])} (95 % within {milliseconds(alone['p95_ms'])}), the median of "
        f"{count(alone['rows'])} of {plural(found['rows'], 'dev row')}. Batches of 32: {milliseconds(batched['median_ms'])} "
        f"(95 % within {milliseconds(batched['p95_ms'])}), "
        f"{count(round(batched['sentences_per_second']))} sentences a second."
    )
    speed = board.latencies.speed(method, [task])
    if isinstance(speed, Speed) and speed.ratio is not None and method != board.latencies.full_precision:
        reference = board.title(board.latencies.full_precision)
        yield f"{score(speed.ratio, 2)} times as fast as {reference}, one sentence by itself."
    engine = f"the packed engine, {found['kernels']} kernels" if found["engine"] == "packed" else "torch"
    reason = f" ({found['reason']})" if found["reason"] else ""
    yield f"Measured through {engine}{reason}, on {Setting.of(found).title}: {found['device']['platform']}."
    if isinstance(speed, str):
        yield f"On no axis and in no ratio: {speed}."
    yield (
        f"Opened in {found['load_seconds']:.2g} s; resident memory rises by {mebibytes(found['memory_bytes'])}. "
        "Scores above are torch's; through this engine they "
        + (f"differ by at most {found['difference']:.2g} points." if found["difference"] else "are the same.")
    )
