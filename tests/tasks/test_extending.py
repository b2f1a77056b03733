"""The task kind of docs/extending.md: one file and one entry, in a copy of the project."""

import json
import re

import pytest

from tests.fixtures.copies import ROOT, copy_project, run_in

USE = """
import json, sys
import numpy as np, torch
from methods.model import artifact
from methods.model.encoder import Base, build, from_base, wordpiece, write_base
from methods.__main__ import main
from methods.tasks import data, kinds
from methods.training import trainer
from methods.training.forward import forward
from methods.training.device import open_device
from methods.training.loader import Loader

torch.manual_seed(0)
words = "ann saw the do ##g bob and ran .".split()
config = dict(vocab_size=len(words) + 4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
tokenizer = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])
weights = {name: value.numpy() for name, value in build(config, "sequence", 2).base_model.state_dict().items()}
write_base("base.safetensors", Base(weights, config, tokenizer, {"source": "generated", "id": "tiny", "revision": "0"}))
assert main(["data", "names", "--base", "base.safetensors", "--out", "names.safetensors"]) == 0
task = data.load("names.safetensors")
base = Base(weights, config, tokenizer, {})
student, teacher = (from_base(base, task.kind.head, task.kind.outputs(task.meta["labels"]), seed) for seed in (1, 2))
device, _, _ = open_device("fp32")
loader = Loader(task.train, task.kind, device.device, max_length=task.meta["max_length"])
predict = lambda: trainer.predict(student, loader.on(task.dev["validation"]), device)
found = {"targets": task.train.targets["labels"].tolist(), "baseline": task.baseline(), "losses": []}
found["shapes"] = [list(rows.shape) for rows in predict()]
batch = loader.batch(np.arange(3))
found["collated"] = batch["labels"][1].tolist()
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
student.train()
for step in range(60):
    loss = task.kind.loss(forward(student, batch).logits, batch)
    found["losses"].append(loss.mean().item())
    optimizer.zero_grad(), loss.mean().backward(), optimizer.step()
own, other = (forward(model.eval(), batch).logits for model in (student, teacher))
found["soft"] = [task.kind.soft_loss(own, target, batch).mean().item() for target in (own, other)]
predictions = task.predictions({"validation": predict()})
found["score"] = task.score(predictions)
stored = task.stored(predictions)["validation"]
found["evaluate"] = task.kind.evaluate(
    task.meta, task.dev["validation"], stored, {"labels": task.references()["labels.validation"]}, ["accuracy"]
)
meta = {key: task.meta[key] for key in ("kind", "labels", "columns", "max_length", "task", "span")}
meta |= {"head": task.kind.head, "outputs": 2, "padding": "bucket", "preset": "demo"}
artifact.save("model.safetensors", student, meta | {"tokenizer": {"id": "tiny", "sha256": task.meta["tokenizer"]}})
json.dump(found, sys.stdout)
"""


@pytest.mark.slow
def test_the_kind_of_the_docs_encodes_learns_scores_and_answers(tmp_path):
    section = (ROOT / "docs/extending.md").read_text(encoding="utf-8").split("## A kind of task\n")[1].split("\n## ")[0]
    code, entry, rows = (re.search(rf"```{name}\n(.*?)```", section, re.DOTALL)[1] for name in ("python", "yaml", "csv"))
    copy_project(tmp_path)
    (tmp_path / "methods/tasks/kinds/tagging.py").write_text(code, encoding="utf-8")
    (tmp_path / "names.csv").write_text(rows, encoding="utf-8")
    with open(tmp_path / "config/tasks.yaml", "a", encoding="utf-8") as file:
        file.write("\n" + entry)
    (tmp_path / "use.py").write_text(USE)
    found = json.loads(run_in(tmp_path, "python", "use.py").stdout)
    none = -100
    first, second = [none, 1, 0, 0, 0, none, none], [none, 0, 0, none, 0, 1, 0, none]  # "do ##g" is one word
    assert found["targets"][:15] == first + second
    assert found["collated"] == second + [none] * 8
    assert found["shapes"] == [[7, 2], [8, 2], [6, 2]]
    assert found["baseline"] == {"metrics": {"accuracy": pytest.approx(100 * 9 / 13)}, "what": "always OTHER"}
    assert found["losses"][-1] < 0.1 < found["losses"][0]
    assert found["soft"][0] < found["soft"][1]
    assert found["score"] == found["evaluate"] == {"accuracy": 100.0}
    words = ["python", "-m", "methods", "predict", "model.safetensors", "Bob saw Ann", "--base", "base.safetensors"]
    assert run_in(tmp_path, *words).stdout == "labels  Bob/NAME saw/OTHER Ann/NAME\n"

    tiny = {
        "tasks": ["names"],
        "allow_weak_teacher": True,
        "base": {"layers": 1, "hidden": 32, "heads": 2, "intermediate": 64, "texts": 400},
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(tiny))
    run_in(tmp_path, "snakemake", "results/lsq_4bit_names.json", "--cores", "1", "--configfile", "tiny.yaml")
    cell = json.loads((tmp_path / "results/lsq_4bit_names.json").read_text())
    assert (cell["about"]["task"]["kind"], cell["measured"]["metric"]) == ("tagging", "accuracy")
    assert cell["measured"]["teacher"]["method"] == "fp32" and cell["measured"]["outcomes"]["kind"] == "labels"

    (tmp_path / "names.csv").write_text("text,label\nAnn ran,NAME\n")
    done = run_in(tmp_path, "python", "-m", "methods", "data", "names", "--base", "base.safetensors", check=False)
    line = "names.csv, line 2: 1 labels for 2 words: write one label a word, with spaces between."
    assert done.stderr.splitlines()[-1] == f"error: {line}"
