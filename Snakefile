# BERT quantization benchmark: the table of contents. Plain Python does the work, behind `python -m methods` and `python -m report`.
import gc
import os
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(workflow.current_basedir))
from workflow import catalogue as catalogues, documents, terminal

# A graph of a thousand jobs is made of objects that all live on: looking for garbage among them takes a tenth of its time.
gc.set_threshold(100_000, 50, 100)


include: "workflow/rules/common.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/cells.smk"


if LATENCY:

    include: "workflow/rules/latency.smk"


rule all:
    default_target: True
    input:
        f"{PAGE}/index.html",
        # Named, because Snakemake makes no missing run again as long as the cell made from it is there.
        [f"{work(*run)}/run.json" for run in RUNS],
        LATENCIES,
