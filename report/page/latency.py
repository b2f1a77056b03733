"""What was measured of one cell's predictions, as names and values."""

from collections.abc import Iterator

from report.evidence.board import Board
from report.evidence.latency import NOT_MEASURED, Setting
from report.wording import count, mebibytes, milliseconds, plural, score


def facts(board: Board, cell: dict) -> Iterator[tuple[str, str]]:
    """Yield the times of predictions, the engine and the machine behind them, and its scores; or why there are none."""
    found, method, task = cell["measured"]["latency"], cell["request"]["method"], cell["request"]["task"]
    if found == NOT_MEASURED or found["engine"] is None:
        yield "Time of a sentence", NOT_MEASURED if found == NOT_MEASURED else f"{NOT_MEASURED}: {found['reason']}"
        return
    yield "One sentence", _times(found, "1")
    yield (
        "Batches of 32",
        f"{_times(found, '32')}: {count(round(found['batches']['32']['sentences_per_second']))} sentences/s",
    )
    speed = board.latencies.speed(method, [task])
    if isinstance(speed, str):
        yield "Not compared", speed
    elif speed.ratio is not None and method != board.latencies.full_precision:
        yield "Speed-up", f"{score(speed.ratio, 2)}× over {board.title(board.latencies.full_precision)}, one sentence"
    engine = f"packed engine, {found['kernels']} kernels" if found["engine"] == "packed" else f"torch: {found['reason']}"
    yield "Timed on", f"{Setting.of(found).title}; {engine}"
    memory = "" if found["memory_bytes"] is None else f"; memory rises by {mebibytes(found['memory_bytes'])}"
    yield "Start", f"opens in {found['load_seconds']:.2g} s{memory}"
    differ = f"{found['difference']:.2g} points at most" if found["difference"] else "none"
    yield "Scores", f"torch, fp32; difference through this engine: {differ}"


def _times(found: dict, size: str) -> str:
    calls = found["batches"][size]
    text = f"{milliseconds(calls['median_ms'])}, 95 % within {milliseconds(calls['p95_ms'])}"
    skipped = found["rows"] - calls["rows"] >= int(size)  # what fills no whole batch is not worth a word
    return text + (f", over {count(calls['rows'])} of {plural(found['rows'], 'dev row')}" if skipped else "")
