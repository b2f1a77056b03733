"""Times of prediction: which can be compared, and what is said of the others. Two tasks, times worked out by hand."""

import copy

import pytest

from report.evidence.board import Board
from report.evidence.comparison import compare
from report.evidence.points import axis_of, cloud
from report.page.page import render
from report.tables.suites import tables
from tests.fixtures import cells as fixture
from tests.fixtures.cells import cell_at

METHODS = ("fp32", "fp32_kd", "int8_dynamic", "rtn_4bit", "lsq_4bit", "bwn_1bit")
TASKS = ("mrpc", "rte")


@pytest.fixture(scope="module")
def board():
    return fixture.board(METHODS, TASKS, seeds=(1,), rows=60)


@pytest.fixture
def cells(board):
    return copy.deepcopy(board)


def latency_of(cells: list[dict], method: str, task: str) -> dict:
    return cell_at(cells, method, task)["measured"]["latency"]


def test_a_time_is_the_mean_over_the_tasks_and_its_ratio_is_to_full_precision(cells):
    for method, times in {"fp32": (3.0, 5.0), "lsq_4bit": (1.0, 3.0)}.items():
        for task, time in zip(TASKS, times, strict=True):
            batches = latency_of(cells, method, task)["batches"]
            batches["1"]["median_ms"] = time
            batches["32"]["sentences_per_second"] = 1000 / time
    speed = Board(cells).latencies.speed("lsq_4bit", list(TASKS))
    assert (speed.milliseconds, speed.ratio) == (2.0, 2.0)
    assert speed.per_second == pytest.approx(500), "two rows in 1 + 3 ms"
    assert Board(cells).latencies.speed("lsq_4bit", ["rte"]).ratio == pytest.approx(5 / 3)
    assert Board(cells).latencies.speed("fp32", list(TASKS)).ratio == 1


def test_full_precision_is_what_nothing_was_taken_from(cells):
    for task in TASKS:
        cell_at(cells, "fp32", task)["measured"]["bits"]["activations"] = 8
    assert Board(cells).full_precision is None, "what was distilled is no reference"
    for task in TASKS:
        for run in cell_at(cells, "fp32_kd", task)["ran_on"]["runs"]:
            run["ancestors"] = {}
    assert Board(cells).full_precision == "fp32_kd"
    for task in TASKS:
        cell_at(cells, "fp32_kd", task)["measured"]["size"]["counted"]["ratio"] = 2.0  # pruned
    latencies = Board(cells).latencies
    assert latencies.full_precision is None
    assert latencies.speed("lsq_4bit", list(TASKS)).ratio is None


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("fp32_kd", "not measured"),
        ("bwn_1bit", "its embeddings have no grid"),
        ("rtn_4bit", "measured on another device: Another invented processor, 4 threads"),
    ],
)
def test_what_has_no_time_that_compares_is_left_out_by_name(method, reason, cells):
    evidence = compare(cells)
    title = evidence.board.title(method)
    for tasks in (["rte"], list(TASKS)):
        assert (title, reason) in cloud(evidence, tasks, axis_of(evidence.board, "latency")).absent
    assert next(row.speed for row in tables(evidence)[0].rows if row.method == method) == reason


def test_a_time_of_some_of_the_tasks_is_none(cells):
    cell_at(cells, "lsq_4bit", "rte")["measured"]["latency"] = "not measured"
    latencies = Board(cells).latencies
    assert latencies.speed("lsq_4bit", list(TASKS)) == "not all tasks"
    assert latencies.speed("lsq_4bit", ["mrpc"]).milliseconds == 0.9375


def test_the_most_frequent_device_is_the_one_of_axes_and_ratios(cells):
    for method in ("fp32", "lsq_4bit", "int8_dynamic"):
        for task in TASKS:
            latency_of(cells, method, task)["threads"] = 8
    latency_of(cells, "fp32", "mrpc")["threads"] = 4
    board = Board(cells)
    assert board.latencies.setting.title == "An invented processor, 8 threads"
    assert axis_of(board, "latency").label == "Time of one sentence on An invented processor, 8 threads"
    assert axis_of(board, "memory").label.endswith("8 threads")
    assert axis_of(board, "file").label == "Model size of the file on disk"
    assert board.latencies.speed("lsq_4bit", ["rte"]).ratio == pytest.approx(4 / 0.9375)
    assert board.latencies.speed("lsq_4bit", ["mrpc"]).ratio is None, "full precision was measured with 4 threads"


@pytest.mark.parametrize("change", [{"flags": ["avx2"]}, {"cores": 8}, {"cpu": "A third processor"}])
def test_a_machine_that_differs_in_anything_that_counts_is_another(change, cells):
    latency_of(cells, "lsq_4bit", "rte")["device"] |= change
    assert Board(cells).latencies.speed("lsq_4bit", ["rte"]).startswith("measured on another device")
    latency_of(cells, "lsq_4bit", "mrpc")["device"]["platform"] = "Linux, a newer kernel"
    assert Board(cells).latencies.speed("lsq_4bit", ["mrpc"]).ratio


def test_an_odd_cell_has_a_time_and_no_ratio(cells):
    for task in TASKS:
        cell_at(cells, "lsq_4bit", task)["ran_on"]["base"]["sha256"] = "f" * 64
    speed = Board(cells).latencies.speed("lsq_4bit", ["rte"])
    assert (speed.milliseconds, speed.ratio) == (0.9375, None)


def test_torch_is_compared_with_any_kernels_and_other_kernels_are_not(cells):
    latencies = Board(cells).latencies
    assert latencies.speed("int8_dynamic", ["rte"]).engines == {"torch"}
    latency_of(cells, "lsq_4bit", "rte")["kernels"] = "avx2"
    reason = Board(cells).latencies.reason("lsq_4bit", "rte")
    assert reason == "measured on another device: An invented processor, 4 threads, avx2 kernels"


def test_the_notes_name_device_engine_and_the_difference_of_scores(cells):
    notes = " ".join(Board(cells).latencies.notes(str.upper))
    assert (
        "Times: An invented processor, 4 threads, packed engine (avx512_vnni kernels); dev rows by their real lengths"
        in notes
    )
    assert "Timed through torch: INT8_DYNAMIC." in notes
    assert "Times of another device are not compared: 2 cells (Another invented processor, 4 threads)." in notes
    assert "through the packed engine they differ by at most 0.03 points" in notes, "0.024, rounded up"
    for cell in cells:
        cell["measured"]["latency"] = "not measured"
    assert Board(cells).latencies.notes(str.upper) == []


def test_csv_has_plain_columns_and_a_device(cells):
    records = {record["method"]: record for record in tables(compare(cells))[0].records()}
    assert records["lsq_4bit"]["ms"] == 0.9375
    assert records["lsq_4bit"]["speed_up"] == pytest.approx(4 / 0.9375)
    assert (records["lsq_4bit"]["engine"], records["int8_dynamic"]["engine"]) == ("packed", "torch")
    assert records["lsq_4bit"]["device"] == "An invented processor, 4 threads"
    assert records["rtn_4bit"]["ms"] is None
    assert records["rtn_4bit"]["time_note"].startswith("measured on another device")


def test_without_a_time_there_is_no_column_no_axis_and_no_word_of_engines(cells):
    for cell in cells:
        cell["measured"]["latency"] = "not measured"
    evidence = compare(cells)
    table = tables(evidence)[0]
    assert not table.with_speed and table.records()[0]["ms"] is None
    page = render(evidence)
    assert "axis-latency" not in page.split("</style>")[1] and "packed engine" not in page


def test_a_cell_says_how_many_rows_were_timed_where_not_all_were(cells):
    latency_of(cells, "lsq_4bit", "rte")["batches"]["1"]["rows"] = 200
    latency_of(cells, "lsq_4bit", "rte")["batches"]["32"]["rows"] = 224
    page = " ".join(render(compare(cells)).split())
    assert "0.938 ms, 95 % within 1.31 ms, over 200 of 277 dev rows" in page
    assert "18.8 ms, 95 % within 26.2 ms, over 224 of 277 dev rows: 1,707 sentences/s" in page


def test_a_cell_shows_its_own_time_even_where_it_is_not_compared(cells):
    page = " ".join(render(compare(cells)).split())
    for words in (
        "0.938 ms, 95 % within 1.31 ms",
        "4.27× over Full precision, one sentence",
        "torch, fp32; difference through this engine: 0.024 points at most",
        "An invented processor, 4 threads; torch: its products are torch&#39;s own",
        "measured on another device: Another invented processor, 4 threads",
        "not measured: its embeddings have no grid",
    ):
        assert f"<td>{words}</td>" in page
