# BERT quantization benchmark: the table of contents. Plain Python does the work, behind `python -m methods` and `python -m report`.
import os
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(workflow.current_basedir))
from workflow import catalogue as catalogues


configfile: workflow.source_path("config/config.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/cells.smk"


rule all:
    default_target: True
    input:
        "report/html/index.html",
