"""A user's own rows: three formats read alike, and every mistake one line with file and row."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from methods.common.errors import UserError
from methods.tasks import data, encode, files, sources
from tests.fixtures.copies import modules_after

MOODS = {"kind": "classification", "columns": ["review"], "label": "mood", "labels": ["negative", "positive"]}
NUMBERS = {"kind": "regression", "columns": ["a", "b"]}
SPANS = {"kind": "span"}
CONTEXT = "The dog ran."
QUESTION = {"id": "1", "question": "Who ran?", "context": CONTEXT, "answers": {"text": ["dog"], "answer_start": [4]}}


def read(folder, entry: dict, content, suffix: str = ".csv") -> dict:
    path = folder / f"rows{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return files.rows({**entry, "files": {"train": str(path)}}, "mine")["train"]


def test_csv_tsv_json_lines_and_parquet_give_equal_rows(tmp_path):
    reviews, moods = ['good, "really"', "bad\nfood", "naïve"], ["positive", "0", " negative "]
    expected = {"review": reviews, "label": [1, 0, 0]}
    text = 'mood,review\npositive,"good, ""really"""\n0,"bad\nfood"\n\n negative ,naïve\n'
    assert read(tmp_path, MOODS, text) == expected
    assert read(tmp_path, MOODS, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())["label"] == [1, 0, 0]
    assert read(tmp_path, MOODS, text.replace(",", "\t").replace("good\t", "good,"), ".tsv") == expected
    rows = [{"review": review, "mood": mood} for review, mood in zip(reviews, moods, strict=True)]
    rows[1]["mood"] = 0
    assert read(tmp_path, MOODS, "\n\n".join(map(json.dumps, rows)), ".jsonl") == expected
    for labels in (moods, [1, 0, 0], [1.0, 0.0, 0.0]):
        pq.write_table(pa.table({"other": [1, 2, 3], "mood": labels, "review": reviews}), tmp_path / "rows.parquet")
        assert files.rows({**MOODS, "files": {"train": str(tmp_path / "rows.parquet")}}, "mine")["train"] == expected


def test_names_win_over_numbers_where_labels_are_digits(tmp_path):
    stars = {**MOODS, "label": "label", "labels": ["1", "2", "3"]}
    assert read(tmp_path, stars, "review,label\na,1\nb,3\n")["label"] == [0, 2]
    assert read(tmp_path, stars, '{"review": "a", "label": 2}', ".jsonl")["label"] == [1]


def test_numbers_have_any_range_but_the_one_that_the_entry_states(tmp_path):
    assert read(tmp_path, NUMBERS, "a,b,label\nx,y,-7.5\nx,z,1e3\n")["label"] == [-7.5, 1000.0]
    with pytest.raises(UserError, match=r"rows\.csv, line 2: label '7' is out of range: write numbers from 0 to 5\."):
        read(tmp_path, {**NUMBERS, "range": [0, 5]}, "a,b,label\nx,y,7\n")


def test_questions_are_read_in_squads_form(tmp_path):
    found = read(tmp_path, SPANS, json.dumps({**QUESTION, "id": 1}), ".jsonl")
    assert found == {key: [value] for key, value in QUESTION.items()}
    pq.write_table(pa.Table.from_pylist([QUESTION]), tmp_path / "rows.parquet")
    assert files.rows({**SPANS, "files": {"train": str(tmp_path / "rows.parquet")}}, "mine")["train"] == found
    silent = {**QUESTION, "answers": {"text": [], "answer_start": []}}
    assert read(tmp_path, {**SPANS, "span": {"null_threshold": 0.0}}, json.dumps(silent), ".jsonl")["answers"]


HEAD = "review,mood\n"


@pytest.mark.parametrize(
    ("entry", "content", "suffix", "line"),
    [
        (MOODS, HEAD + "a,positive\nb,postive\n", ".csv", r"line 3: unknown label 'postive'\. Did you mean 'positive'\?"),
        (
            MOODS,
            HEAD + '"a\nb",positive\nc,2\n',
            ".csv",
            r"line 4: label 2 is out of range: write 0 to 1 or one of negative",
        ),
        (MOODS, HEAD + "a,-1\n", ".csv", "line 2: label -1 is out of range"),
        (MOODS, HEAD + "a,\n", ".csv", "line 2: column 'mood' is empty: write a label or delete the row"),
        (MOODS, HEAD + "  ,positive\n", ".csv", "line 2: column 'review' is empty: write a text or delete the row"),
        (MOODS, HEAD + "a,b,positive\n", ".csv", "line 2: 3 values for 2 columns: put texts with a comma in double quotes"),
        (MOODS, HEAD + "a,positive\nb\n", ".csv", "line 3: 1 values for 2 columns"),
        (MOODS, HEAD + 'a,positive\n"b,negative\n', ".csv", "line 3: not valid CSV"),
        (MOODS, HEAD + "a,positive\nb\xff,negative\n".replace("\xff", "\udcff"), ".csv", "line 3: the text is not UTF-8"),
        (MOODS, "review,mod\na,positive\n", ".csv", r"line 1: column 'mood' is missing\. Did you mean 'mod'\?"),
        (MOODS, "review,mood,mood\n", ".csv", "line 1: column 'mood' occurs twice"),
        (MOODS, HEAD, ".csv", r"rows\.csv holds no rows: add some for train\."),
        (MOODS, "", ".csv", r"rows\.csv is empty: begin it with a line of column names \(review, mood\)"),
        (MOODS, "x", ".txt", r"rows are read from \.csv, \.tsv, \.jsonl, \.parquet: convert the file"),
        (MOODS, '{"review": "a", "mood": 1}\n\n{"review"', ".jsonl", "line 3 is no JSON object: write lines such as"),
        (MOODS, "[" * 100_000, ".jsonl", "line 1 is no JSON object"),
        (MOODS, '{"review": 3, "mood": 1}', ".jsonl", "line 1: column 'review' holds 3 and no text"),
        (MOODS, '{"review": "\\ud800", "mood": 1}', ".jsonl", "line 1: column 'review' is no valid Unicode text"),
        (MOODS, '{"review": "a", "mood": true}', ".jsonl", "line 1: unknown label True"),
        (MOODS, '{"review": "a", "mood": 0.5}', ".jsonl", r"line 1: unknown label 0\.5"),
        (MOODS, '{"review": "a"}', ".jsonl", "line 1: column 'mood' is missing"),
        (MOODS, "PAR1 and nothing else", ".parquet", "is damaged or no Parquet file"),
        (NUMBERS, "a,b,label\nx,y,nan\n", ".csv", "line 2: label 'nan' is no finite number"),
        (NUMBERS, "a,b,label\nx,y,1e39\n", ".csv", "line 2: label '1e39' is no finite number"),
        (NUMBERS, "a,b,label\nx,y,high\n", ".csv", "line 2: label 'high' is no finite number"),
        (SPANS, "x", ".csv", r"rows are read from \.jsonl, \.parquet"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_its_place(tmp_path, entry, content, suffix, line):
    with pytest.raises(UserError, match=line) as error:
        read(tmp_path, entry, content.encode("utf-8", "surrogateescape"), suffix)
    assert "\n" not in str(error.value) and f"rows{suffix}" in str(error.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"answers": {"text": ["dog"], "answer_start": [5]}},
            "the answer 'dog' does not stand at character 5 of the passage",
        ),
        ({"answers": {"text": ["dog"], "answer_start": []}}, "as many texts as starts"),
        ({"answers": {"text": ["dog"], "answer_start": ["4"]}}, "texts and the character"),
        ({"answers": ["dog"]}, "not in SQuAD's form"),
        ({"answers": {"text": [], "answer_start": []}}, r"the question has no answer: .* `span: \{null_threshold: 0\.0\}`"),
        ({"question": ""}, "column 'question' is empty"),
        ({"id": None}, "column 'id' holds None"),
    ],
)
def test_a_mistake_in_a_question_is_one_line_with_its_place(tmp_path, change, line):
    content = "\n".join(json.dumps(row) for row in (QUESTION, {**QUESTION, "id": "2", **change}))
    with pytest.raises(UserError, match=rf"rows\.jsonl, line 2: .*{line}"):
        read(tmp_path, SPANS, content, ".jsonl")


def test_an_id_that_occurs_twice_is_named_with_both_places(tmp_path):
    with pytest.raises(UserError, match="line 3: the id '1' is that of line 1 too"):
        read(tmp_path, SPANS, f"{json.dumps(QUESTION)}\n\n{json.dumps(QUESTION)}", ".jsonl")


def test_a_row_of_parquet_is_named_by_its_number(tmp_path):
    pq.write_table(pa.table({"review": ["a", None], "mood": [0, 1]}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows\.parquet, row 2: column 'review' holds None and no text"):
        files.rows({**MOODS, "files": {"train": str(tmp_path / "rows.parquet")}}, "mine")


def test_missing_files_and_folders_are_one_line(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name, line in (("nowhere.csv", "does not exist"), ("folder.csv", "is no file")):
        with pytest.raises(UserError, match=rf"{name} {line}: correct `files` in config/tasks\.yaml"):
            files.rows({**MOODS, "files": {"train": str(tmp_path / name)}}, "mine")


def test_one_file_for_both_splits_is_allowed_and_said(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text(HEAD + "a,positive\n")
    files.rows({**MOODS, "files": {"train": str(path), "validation": f"{tmp_path}/./rows.csv"}}, "mine")
    assert "mine: train and validation are the same file" in capsys.readouterr().err


def test_own_rows_are_whole_whatever_their_number_and_carry_the_defaults_of_their_kind(tmp_path, base):
    path = tmp_path / "rows.csv"
    path.write_text(HEAD + "good film,positive\nbad film,negative\n")
    entry = {**MOODS, "files": {"train": str(path), "validation": str(path)}}
    request = {"task": "mine", "entry": entry, "source": {"source": "generated"}, "max_length": None, "train_rows": 1}
    encode.write_task(tmp_path / "mine.safetensors", request, base.tokenizer, sources.rows(request))
    task = data.load(tmp_path / "mine.safetensors")
    assert (task.meta["metrics"], task.meta["max_length"], task.meta["dev"]) == (["accuracy"], 128, ["validation"])
    facts = task.meta["data"]
    assert (facts["rows"], facts["partial"], facts["source"]) == ({"train": 1, "validation": 2}, False, "files")
    assert facts["dataset"] == "rows.csv", "a run's record names no folder of the user's"


def test_text_files_are_read_without_libraries_of_tables():
    loaded = modules_after("from methods.tasks import encode, files, sources")
    assert not {"torch", "datasets", "pandas", "pyarrow", "transformers"} & loaded


def test_a_text_longer_than_the_librarys_limit_is_read(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text('text,label\n"' + "word " * 40_000 + '",0\n')
    ((_, row),) = files.read(path, ["text", "label"])
    assert len(row["text"]) == 200_000
