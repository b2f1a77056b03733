import contextlib
import errno
import hashlib
import json
import shutil
import socket
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from methods.common.errors import UserError
from methods.tasks import data, hub, kinds, sources
from tests.fixtures.world import SHARED
from workflow import catalogue

TASKS = catalogue.load({"preset": "small"}).tasks


def squad_rows(*rows):
    names = ("id", "question", "context", "answers")
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def answer(context, *texts):
    return {"text": list(texts), "answer_start": [context.index(text) for text in texts]}


def test_sentences_become_segments_and_the_longer_is_cut_first(write_task):
    columns = {"sentence1": ["good film"], "sentence2": ["the " * 30], "label": [1]}
    split = data.load(write_task("mrpc", {"train": columns, "validation": columns}, max_length=16)).train
    batch = data.collate(split, np.array([0]), "bucket", 16)
    assert batch["input_ids"].shape == (1, 16)
    assert batch["token_type_ids"][0].tolist() == [0] * 4 + [1] * 12  # [CLS] good film [SEP], then the second
    assert batch["labels"].tolist() == [1]


def test_batches_are_padded_to_the_next_bucket_or_to_the_full_length(sst2):
    rows = np.array([0, 1])
    assert data.collate(sst2.train, rows, "bucket", 32)["input_ids"].shape[1] == 16
    assert data.collate(sst2.train, rows, "max_length", 32)["input_ids"].shape[1] == 32


def test_windows_hold_the_gold_span_and_answers_come_from_the_original_text(write_task):
    context = "the  Dog ran. " + "the film is fine . " * 12 + "The STORY was dull ."
    rows = squad_rows(
        ("a", "who ran ?", context, answer(context, "Dog")),
        ("b", "where", context, answer(context, "The STORY")),
    )
    path = write_task("squad", {"train": rows, "validation": rows}, max_length=32)
    task = data.load(path)
    train, dev = task.train, task.dev["validation"]
    assert len(train) == len(dev) > 4
    assert train.lengths.max() <= 32
    # Perfect logits for the gold tokens of each window give the gold text, capitals and spaces included.
    outputs = []
    for row in range(len(dev)):
        scores = np.zeros((2, dev.lengths[row]), np.float32)
        start, end = train.targets["start"][row], train.targets["end"][row]
        scores[0, start], scores[1, end] = 5, 5
        outputs.append(scores)
    found = task.predictions({"validation": outputs})["validation"]
    assert dict(zip(found["ids"].tolist(), found["values"].tolist(), strict=True)) == {"a": "Dog", "b": "The STORY"}
    assert task.score({"validation": found}) == {"f1": 100.0, "exact": 100.0}
    assert task.baseline()["metrics"] == {"f1": 0.0, "exact": 0.0}


def test_unanswerable_questions_point_at_cls_and_silence_scores_their_share(write_task):
    context = "the dog ran fast ."
    rows = squad_rows(
        ("a", "who ran ?", context, answer(context, "dog")),
        ("b", "who was good ?", context, {"text": [], "answer_start": []}),
    )
    task = data.load(write_task("squad2", {"train": rows, "validation": rows}))
    assert task.train.targets["start"].tolist()[1] == 0
    assert task.baseline()["metrics"]["f1"] == 50.0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"label": [2]}, "row 0: label 2 is none of 0 to 1"),
        ({"label": [-1]}, "row 0: label -1 is none of"),
        ({"sentence": [None]}, "row 0: column 'sentence' holds no text"),
        ({"sentence": [], "label": []}, "split 'validation' is empty"),
    ],
)
def test_damaged_rows_are_refused_by_number(write_task, change, line):
    good = {"sentence": ["good film"], "label": [1]}
    with pytest.raises(UserError, match=line):
        write_task("sst2", {"train": good, "validation": {**good, **change}})


def test_a_misplaced_answer_is_refused(write_task):
    rows = squad_rows(("a", "who", "the dog ran", {"text": ["dog"], "answer_start": [5]}))
    with pytest.raises(UserError, match="'dog' does not stand at character 5"):
        write_task("squad", {"train": rows, "validation": rows})


def test_other_row_counts_are_marked_partial_with_both_counts(write_task):
    good = {"sentence": ["good film"], "label": [1]}
    found = data.load(write_task("sst2", {"train": good, "validation": good}, source={"source": "hub", "mirror": None}))
    assert found.meta["data"]["partial"] is True
    assert found.meta["data"]["rows"] == {"train": 1, "validation": 1}
    assert found.meta["data"]["official_rows"] == TASKS["sst2"]["rows"]


def test_rows_that_are_held_out_are_training_rows_that_no_run_trains_on(write_task):
    request = json.loads(catalogue.dump(catalogue.load({"preset": "demo"}).request_data("rte")))
    whole = sources.rows(request)
    request["source"]["held_out"] = 0.2
    found = sources.rows(request)
    assert list(found) == ["train", "validation"]
    pairs = {name: list(zip(*columns.values(), strict=True)) for name, columns in found.items()}
    assert len(pairs["validation"]) == round(0.2 * len(whole["train"]["label"]))
    together = sorted(pairs["train"] + pairs["validation"])
    assert together == sorted(zip(*(whole["train"][name] for name in found["train"]), strict=True))
    assert sources.rows(request) == found  # the same rows for every method and seed
    meta = data.load(write_task("rte", found, source=request["source"])).meta["data"]
    assert meta["held_out"] == 0.2 and meta["partial"] is True
    assert meta["rows"] == {name: len(rows) for name, rows in pairs.items()}


def held_out(contexts, share=0.25):
    """Return the passages of the rows to train on and of those held out."""
    request = json.loads(catalogue.dump(catalogue.load({"preset": "demo"}).request_data("squad")))
    request["source"]["held_out"] = share
    count = len(contexts)
    columns = {"id": [*map(str, range(count))], "question": [f"Who is {row}?" for row in range(count)], "context": contexts}
    splits = {"train": columns | {"answers": [{"text": [], "answer_start": []}] * count}, "validation": columns}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_all_rows", lambda _: splits)
        found = sources.rows(request)
    assert sorted(found["train"]["id"] + found["validation"]["id"]) == sorted(columns["id"])
    return found["train"]["context"], found["validation"]["context"]


def test_questions_on_one_passage_are_held_out_together():
    train, validation = held_out([f"passage {row // 3}" for row in range(36)])
    assert len(validation) == 9 and not set(train) & set(validation)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_no_row_on_a_side_is_one_line(share):
    with pytest.raises(UserError, match=r"data.held_out: 0\.\d+ of 12 training rows leaves one side empty"):
        held_out([f"passage {row}" for row in range(12)], share)


def test_a_text_of_more_rows_than_are_held_out_is_on_both_sides():
    train, validation = held_out(["one passage"] * 12)
    assert len(train) == 9 and len(validation) == 3


@pytest.fixture
def mirror(tmp_path):
    """A mirror with a tiny RTE."""
    folder = tmp_path / "mirror/nyu-mll/glue"
    (folder / "rte").mkdir(parents=True)
    for split in ("train", "validation"):
        table = pa.table({"sentence1": ["a b", "c"], "sentence2": ["a", "d"], "label": [0, 1], "idx": [0, 1]})
        pq.write_table(table, folder / f"rte/{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: rte\n  data_files:\n"
        "  - split: train\n    path: rte/train-*\n  - split: validation\n    path: rte/validation-*\n---\n"
    )
    return tmp_path / "mirror"


def rte(mirror):
    return hub.rows(TASKS["rte"], str(mirror))


def test_a_mirror_is_read_like_the_hub(mirror):
    found = rte(mirror)
    assert found["train"] == {"sentence1": ["a b", "c"], "sentence2": ["a", "d"], "label": [0, 1]}


def test_a_missing_mirror_or_repository_is_one_line(tmp_path, mirror):
    with pytest.raises(UserError, match=r"data\.mirror: .*/nowhere is no folder"):
        rte(tmp_path / "nowhere")
    shutil.rmtree(mirror / "nyu-mll")
    with pytest.raises(UserError, match="does not hold nyu-mll/glue: copy that hub repository to"):
        rte(mirror)


def test_a_truncated_file_is_named(mirror):
    path = mirror / "nyu-mll/glue/rte/train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet is damaged"):
        rte(mirror)


def test_a_mirror_below_a_cache_is_checked_as_any_other(mirror):
    hidden = mirror.parent / ".cache/mirror"
    hidden.parent.mkdir()
    mirror.rename(hidden)
    path = hidden / "nyu-mll/glue/rte/train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet is damaged"):
        rte(hidden)


def test_a_flipped_byte_is_found_where_the_mirror_states_sums(mirror):
    path = mirror / "nyu-mll/glue/rte/validation-00000-of-00001.parquet"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (mirror / "nyu-mll/glue/SHA256SUMS").write_text(f"{digest}  rte/{path.name}\n")
    rte(mirror)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"validation-00000-of-00001\.parquet is damaged \(its SHA-256"):
        rte(mirror)


@pytest.mark.parametrize("spelling", ["{sum}  {file}", "{SUM} *{file}", "# sums\n\n{sum}  ./{file}", "| `{file}` | {SUM} |"])
def test_sums_are_read_in_every_usual_spelling(mirror, spelling):
    folder = mirror / "nyu-mll/glue"
    file, digest = "rte/validation-00000-of-00001.parquet", "ab" * 32
    line = spelling.format(file=file, sum=digest, SUM=digest.upper())
    if spelling.startswith("|"):
        with open(folder / "README.md", "a") as readme:
            readme.write(line)
    else:
        (folder / "SHA256SUMS").write_text(line)
    assert hub.checksums(folder) == {file: digest}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("ab" * 31 + "a  rte/x.parquet", r"SHA256SUMS, line 1: 'abab.*' is no SHA-256 of 64 digits and a file"),
        ("ab" * 32 + "  x.txt\n" + "ab" * 32, r"SHA256SUMS, line 2: .* is no SHA-256 of 64 digits and a file"),
        ("SHA256 (x.txt) = " + "ab" * 32, "SHA256SUMS, line 1: .* write it anew with `sha256sum`"),
        (b"\x80\xff\x00", "SHA256SUMS is no text file: write it anew with `sha256sum`, or delete it"),
        ("a" * 400_000, "SHA256SUMS, line 1: 'a{40}' is no SHA-256"),
    ],
)
def test_sums_that_cannot_be_read_are_one_line_and_never_skipped(mirror, content, line):
    (mirror / "nyu-mll/glue/SHA256SUMS").write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.process_time()
    with pytest.raises(UserError, match=line) as error:
        rte(mirror)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert time.process_time() - began < 2


def test_a_long_line_or_a_digit_too_few_in_a_readme(mirror):
    readme = mirror / "nyu-mll/glue/README.md"
    text = readme.read_text()
    readme.write_bytes(text.encode() + b"w" * 400_000 + b" \xff a.b/" * 20_000)
    began = time.process_time()
    assert hub.checksums(readme.parent) == {}
    assert time.process_time() - began < 1
    readme.write_text(f"{text}| x.parquet | {'ab' * 31}a |\n")
    with pytest.raises(UserError, match=r"README\.md: abab.* of x\.parquet is no SHA-256 of 64 digits"):
        rte(mirror)


def test_a_missing_column_is_named(mirror):
    table = pa.table({"sentence1": ["a"], "label": [0]})
    for split in ("train", "validation"):
        pq.write_table(table, mirror / f"nyu-mll/glue/rte/{split}-00000-of-00001.parquet")
    with pytest.raises(UserError, match="column 'sentence2' is missing"):
        rte(mirror)


def test_without_network_and_mirror_there_is_one_line_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    start = time.monotonic()
    assert not hub.reachable()
    with pytest.raises(UserError, match="hub cannot be reached"):
        hub.model_files({"source": "hub", "id": "a/b", "revision": "0" * 40}, None)
    with pytest.raises(UserError, match="run `snakemake prefetch` on a machine with network"):
        hub.prefetch([], None)
    assert time.monotonic() - start < 20  # and not minutes of tries
    for wrong in ("a.mirror", ""):  # without a scheme, and set to nothing
        monkeypatch.setenv("HF_ENDPOINT", wrong)
        monkeypatch.setattr(hub.urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
        assert not hub.reachable()


def test_a_hub_that_breaks_off_is_asked_once(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = []

        def hang_up():
            with contextlib.suppress(OSError):  # the server is closed when the test is over
                while True:
                    caller = server.accept()[0]
                    asked.append(caller)
                    caller.close()

        threading.Thread(target=hang_up, daemon=True).start()
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(UserError, match="The hub cannot be reached"):
            hub.prefetch([{"id": "a/b", "type": "model", "revision": "0" * 40}], str(tmp_path))
        assert len(asked) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mishap", "expected"),
    [
        (RuntimeError("404:\nno such revision"), (UserError, r"a/b cannot be copied .*RuntimeError: 404: no such revision")),
        (OSError(errno.ENOSPC, "No space left on device", "mirror"), (OSError, "No space left")),
    ],
)
def test_what_goes_wrong_while_copying_is_one_line(tmp_path, monkeypatch, mishap, expected):
    import huggingface_hub

    def snapshot_download(*names, **options):
        raise mishap

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(expected[0], match=expected[1]):
        hub.prefetch([{"id": "a/b", "type": "model", "revision": "0" * 40}], str(tmp_path))


def test_prefetch_writes_sums_that_the_reader_checks(tmp_path, monkeypatch):
    import huggingface_hub

    def snapshot_download(repository, *, repo_type, revision, local_dir, allow_patterns):
        assert (repo_type, revision) == ("model", "0" * 40)
        local_dir.mkdir(parents=True)
        (local_dir / "config.json").write_text("{}")
        return str(local_dir)

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    (folder,) = hub.prefetch([{"id": "a/b", "type": "model", "revision": "0" * 40}], str(tmp_path / "m"))
    base = {"source": "hub", "id": "a/b", "revision": "0" * 40}
    assert hub.model_files(base, str(tmp_path / "m")) == folder
    (folder / "config.json").write_text("{ }")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        hub.model_files(base, str(tmp_path / "m"))


@pytest.mark.skipif(not (SHARED / "hub").is_dir(), reason="no local mirror of GLUE beside the project")
@pytest.mark.parametrize("task", ["rte", "stsb", "wnli"])
def test_real_rows_have_the_official_counts_and_pass_every_check(task):
    entry = TASKS[task]
    found = hub.rows(entry, str(SHARED / "hub"))
    assert {split: len(columns["label"]) for split, columns in found.items()} == entry["rows"]
    for split, columns in found.items():
        kinds.of(entry["kind"]).check_rows(columns, entry, split)
