# Shared by all the rules - the catalogue, the legal names, and the Python that the jobs use.

try:
    CATALOGUE = catalogues.load(catalogues.merge(config, catalogues.typed(dict(workflow.config_settings.config))))
    catalogues.check_writable(Path("results"))
except catalogues.ConfigError as error:
    sys.exit(f"error: {error}")


pathvars:
    work=f"results/{CATALOGUE.config['preset']}",


# Every wildcard is constrained: a free one would let a target's name into a shell command.
wildcard_constraints:
    method="|".join(CATALOGUE.methods),
    task="|".join(CATALOGUE.tasks),
    seed=r"\d+",


ROOT = str(workflow.current_basedir.join("../.."))
# Jobs run on Snakemake's own interpreter and find the project from any working directory.
shell.prefix(f"set -euo pipefail; export PATH={os.path.dirname(sys.executable)!r}:$PATH PYTHONPATH={ROOT!r}; ")


def ancestors(wildcards):
    """The runs that a run learns or starts from, each once (they are often one): Snakemake makes them first."""
    found = CATALOGUE.ancestors(wildcards.method, wildcards.task, int(wildcards.seed))
    return [f"{work(*run)}/run.json" for run in dict.fromkeys(found.values())]


def ancestor_options(wildcards):
    found = CATALOGUE.ancestors(wildcards.method, wildcards.task, int(wildcards.seed))
    return " ".join(f"--ancestor {role}={work(*run)}" for role, run in found.items())


def base_of(wildcards):
    """The base model file of a task: the preset's, or that of the user's own model."""
    return f"results/{CATALOGUE.config['preset']}/{CATALOGUE.base_file(wildcards.task)}"


def own_rows(wildcards):
    return own_files(catalogues.entries.files_of(CATALOGUE.tasks[wildcards.task]), f"{wildcards.task}.files")


def own_model(wildcards):
    return own_files(catalogues.entries.model_files_of(CATALOGUE.tasks[wildcards.task]), f"{wildcards.task}.finetuned")


def own_files(paths, key):
    """Files of the user's own, as inputs; one line where one is missing."""
    if line := catalogues.entries.missing(paths, key):
        sys.exit(f"error: {line}")
    return paths


def work(method, task, seed):
    return f"results/{CATALOGUE.config['preset']}/runs/{method}/{task}/{seed}"


def runs_of(method, task):
    """The runs that a cell sums up, one for each seed."""
    return [f"{work(method, task, seed)}/run.json" for seed in CATALOGUE.config["seeds"]]


def refuse(wildcards):
    """Leave with one line that says which names there are, in place of a traceback."""
    sys.exit(f"error: {CATALOGUE.refuse(wildcards.name)}")


CELLS = expand("results/{method}_{task}.json", method=CATALOGUE.config["methods"], task=CATALOGUE.config["tasks"])

# Options of the commands that say why a cell is missing.
LINEAGE = {method: CATALOGUE.lineage(method) for method in CATALOGUE.methods}
WHY_MISSING = f"--logs results/{CATALOGUE.config['preset']}/logs --ancestors {shlex.quote(catalogues.dump(LINEAGE))}"
