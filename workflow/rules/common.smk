# What every rule shares: the catalogue, the legal names, and the Python that the jobs use.

try:
    CATALOGUE = catalogues.load(config)
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
shell.prefix(
    f"set -euo pipefail; export PATH={os.path.dirname(sys.executable)!r}:$PATH PYTHONPATH={ROOT!r}; "
)
