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
    speed = board.latencies.speed(method, [task])
    yield "One sentence", f"{_times(found['batches']['1'])}, over {_rows(found, '1')}"
    batched = found["batches"]["32"]
    per_second = f"{count(round(batched['sentences_per_second']))} sentences a second"
    yield "Batches of 32", f"{_times(batched)}, {per_second}, over {_rows(found, '32')}"
    if isinstance(speed, str):
        yield "Compared", f"no, {speed}"
    elif speed.ratio is not None and method != board.latencies.full_precision:
        yield "Speed-up", f"{score(speed.ratio, 2)}× over {board.title(board.latencies.full_precision)}, one sentence"
    reason = f": {found['reason']}" if found["reason"] else ""
    yield "Engine", f"packed, {found['kernels']} kernels" if found["engine"] == "packed" else f"torch{reason}"
    yield "Timed on", f"{Setting.of(found).title}; {found['device']['platform']}"
    yield "Start", f"opens in {found['load_seconds']:.2g} s; rise of resident memory: {mebibytes(found['memory_bytes'])}"
    differ = f"{found['difference']:.2g} points at most" if found["difference"] else "none"
    yield "Scores", f"through torch, in fp32; difference through this engine: {differ}"


def _times(calls: dict) -> str:
    return f"{milliseconds(calls['median_ms'])} (95 % within {milliseconds(calls['p95_ms'])})"


def _rows(found: dict, size: str) -> str:
    return f"{count(found['batches'][size]['rows'])} of {plural(found['rows'], 'dev row')}"
