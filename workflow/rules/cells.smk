# The cheap part: cells, which sum up a method's runs over seeds, and the page, which reads cells and nothing else.


def runs_of(method, task):
    """One run for each seed; a method that teaches is also a teacher's run, whatever the seeds."""
    return [f"{work(method, task, seed)}/run.json" for seed in CATALOGUE.config["seeds"]]


rule cell:
    input:
        lambda wildcards: runs_of(wildcards.method, wildcards.task),
    output:
        "results/{method}_{task}.json",
    log:
        "<work>/logs/cells/{method}_{task}.log",
    params:
        folders=lambda wildcards, input: [os.path.dirname(run) for run in input],
        primary=CATALOGUE.config["primary"],
        code=catalogues.digest("report/cells.py", "workflow/schemas/cell.schema.yaml"),
    message:
        "Cell {wildcards.method} on {wildcards.task}"
    localrule: True
    shell:
        "python -m report cell --out {output} --primary {params.primary} --run {params.folders} 2>&1 | tee {log}"


CELLS = expand(
    "results/{method}_{task}.json", method=CATALOGUE.config["methods"], task=CATALOGUE.config["tasks"]
)


rule page:
    input:
        CELLS,
    output:
        report("report/html/index.html", caption="../report/page.rst", category="Results"),
    log:
        "<work>/logs/page.log",
    params:
        code=catalogues.digest("report"),
    message:
        "Page"
    localrule: True
    shell:
        "python -m report page --out {output} {input} 2>&1 | tee {log}"


rule partial:
    # The page from the cells that exist: a failed cell keeps `all` from making it.
    params:
        cells=lambda wildcards: [cell for cell in CELLS if os.path.exists(cell)],
    localrule: True
    shell:
        "python -m report page --out report/html/index.html {params.cells}"


def refuse(wildcards):
    sys.exit("error: " + CATALOGUE.refuse(f"results/{wildcards.name}.json"))


rule refuse:
    # Catches names of cells that no catalogue knows, so that the answer says which there are.
    input:
        refuse,
    output:
        "results/{name}.json",
    wildcard_constraints:
        name=f"(?!({'|'.join(CATALOGUE.methods)})_({'|'.join(CATALOGUE.tasks)})\\.json)[^/]+",
    shell:
        "false"
