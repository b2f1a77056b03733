# Shared by all the rules - the catalogue, the legal names, and the Python that the jobs use.

if "{" in str(workflow.current_basedir) or "}" in str(workflow.current_basedir):
    sys.exit("error: Snakemake takes braces in a path for wildcards: rename the project's folder or the one that holds it.")
try:
    CONFIG = documents.merge(catalogues.read_config(), config)
    CATALOGUE = catalogues.load(documents.merge(CONFIG, documents.typed(dict(workflow.config_settings.config))))
    catalogues.check_writable(Path("results"))
except catalogues.UserError as error:
    sys.exit(f"error: {error}")

if terminal.executes(workflow):
    terminal.hold(Path(".snakemake"))
    terminal.silence()

PRESET = CATALOGUE.config["preset"]
PAGE = f"report/html/{PRESET}"
PLAN = f"results/{PRESET}/progress.json"
LATENCY = CATALOGUE.request_latency()
ALL_CORES = workflow.resource_settings.cores or 1  # of this machine; a cluster's profile says how many a job gets


pathvars:
    work=f"results/{PRESET}",


# Every wildcard is constrained: a free one would let a target's name into a shell command.
wildcard_constraints:
    method="|".join(CATALOGUE.methods),
    task="|".join(CATALOGUE.tasks),
    seed=r"\d+",


ROOT = str(workflow.current_basedir.join("../.."))


def quoted(text):
    """Return text as one word of the shell that Snakemake does not format."""
    return shlex.quote(text).replace("{", "{{").replace("}", "}}")


# Jobs run on Snakemake's own interpreter and find the project from any working directory. -O would drop their checks.
shell.prefix(
    f"set -euo pipefail; unset PYTHONOPTIMIZE;"
    f" export PATH={quoted(os.path.dirname(sys.executable))}:$PATH PYTHONPATH={quoted(ROOT)}; "
)


def ancestors(wildcards):
    """Return the run.json files of a run's ancestors, each once: Snakemake makes them first."""
    found = CATALOGUE.ancestors(wildcards.method, wildcards.task, int(wildcards.seed))
    return [f"{work(*run)}/run.json" for run in dict.fromkeys(found.values())]


def ancestor_options(wildcards):
    found = CATALOGUE.ancestors(wildcards.method, wildcards.task, int(wildcards.seed))
    return " ".join(f"--ancestor {shlex.quote(f'{role}={work(*run)}')}" for role, run in found.items())


def base_of(wildcards):
    """The base model file of a task: the preset's, or that of the user's own model."""
    return f"results/{CATALOGUE.config['preset']}/{CATALOGUE.base_file(wildcards.task)}"


def own_rows(wildcards):
    return own_files(catalogues.entries.files_of(CATALOGUE.tasks[wildcards.task]), f"{wildcards.task}.files")


def own_model(wildcards):
    return own_files(catalogues.entries.model_files_of(CATALOGUE.tasks[wildcards.task]), f"{wildcards.task}.finetuned")


def data_of(wildcards):
    """The rows of a run; students may train on augmented ones."""
    augmented = or_one_line(CATALOGUE.augmentation, wildcards.method, wildcards.task)
    return f"results/{PRESET}/{CATALOGUE.data_file(wildcards.task, bool(augmented))}"


def word_vectors(wildcards):
    return [path for path in [or_one_line(CATALOGUE.request_data, wildcards.task, True)["vectors"]] if path]


def or_one_line(function, *arguments):
    """Return what the function returns; one line where it refuses."""
    try:
        return function(*arguments)
    except catalogues.UserError as error:
        sys.exit(f"error: {error}")


def own_files(paths, key):
    """Files of the user's own, as inputs; one line where one is missing."""
    if line := catalogues.entries.missing(paths, key):
        sys.exit(f"error: {line}")
    return paths


def work(method, task, seed):
    return f"results/{PRESET}/runs/{method}/{task}/{seed}"


def runs_of(method, task):
    """Return the run.json files that a cell sums up, one for each seed."""
    return [f"{work(method, task, seed)}/run.json" for seed in CATALOGUE.config["seeds"]]


def latencies_of(method, task):
    """Return the latency.json that a cell shows: of its first seed, because the others have models of the same shape."""
    return [f"{work(method, task, CATALOGUE.config['seeds'][0])}/latency.json"] if LATENCY else []


def inputs_of_cell(wildcards):
    """Return the runs of a cell and its latency; where a file is missing behind a cell that a user asks for, its lineage too.

    Snakemake makes no missing file again as long as the products made from it are there, unless its inputs are others.
    """
    cell = f"results/{wildcards.method}_{wildcards.task}.json"
    runs = [*runs_of(wildcards.method, wildcards.task), *latencies_of(wildcards.method, wildcards.task)]
    if cell in workflow.dag_settings.targets and os.path.exists(cell):
        lineage = [f"{work(*run)}/run.json" for run in CATALOGUE.runs([wildcards.method], [wildcards.task])]
        if not all(map(os.path.exists, [*runs, *lineage])):
            return [base_of(wildcards), *dict.fromkeys([*runs, *lineage])]
    return runs


def asked_cells():
    """Return the cells that the user asked for by name, or all of them."""
    return [target for target in workflow.dag_settings.targets if target.endswith(".json")] or CELLS


def refuse(wildcards):
    """Leave with one line that names the right names, in place of a traceback."""
    sys.exit(f"error: {CATALOGUE.refuse(wildcards.name)}")


CELLS = expand("results/{method}_{task}.json", method=CATALOGUE.config["methods"], task=CATALOGUE.config["tasks"])
LATENCIES = [
    path
    for method in CATALOGUE.config["methods"]
    for task in CATALOGUE.config["tasks"]
    for path in latencies_of(method, task)
]
RUNS = CATALOGUE.runs(CATALOGUE.config["methods"], CATALOGUE.config["tasks"])

# Options of the commands that say why a cell is missing.
LINEAGE = {method: CATALOGUE.lineage(method) for method in CATALOGUE.methods}
WHY_MISSING = f"--preset {PRESET} --work results/{PRESET} --ancestors {shlex.quote(catalogues.dump(LINEAGE))}"

# Options of the command that makes the page.
PAGE_OPTIONS = f"--margin {CATALOGUE.config['report']['margin']} --results results/{PRESET}"
PAGE_OPTIONS += " --texts" if CATALOGUE.config["report"]["texts"] else ""

# The runs that others wait for, and the longest ones, come first, so that no core is idle at the end.
PRIORITIES = CATALOGUE.priorities(RUNS)
FIRST = 1 + max(PRIORITIES.values())
