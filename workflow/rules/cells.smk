# The cheap part: cells, which sum up a method's runs over seeds, and the page, which reads cells and nothing else.


rule cell:
    input:
        lambda wildcards: runs_of(wildcards.method, wildcards.task),
    output:
        "results/{method}_{task}.json",
    log:
        "<work>/logs/cells/{method}_{task}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folders=lambda wildcards, input: [os.path.dirname(run) for run in input],
        primary=CATALOGUE.config["primary"],
        code=catalogues.digest(
            *("report/cells.py", "report/outcomes.py", "report/statistics.py", "report/files.py", "report/__main__.py"),
            "workflow/schemas",
        ),
    message:
        "Cell {wildcards.method} on {wildcards.task}"
    shell:
        "python -m report cell --out {output} --primary {params.primary} --run {params.folders} 2>&1 | tee {log}"


rule page:
    input:
        CELLS,
    output:
        page=report("report/html/index.html", caption="../report/page.rst", category="Page"),
        # Folders, because the cells decide which figures there are. They are cheap and nothing reads them.
        tables=report(
            directory("report/html/tables"),
            patterns=["{table}.csv"],
            caption="../report/tables.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        figures=report(
            directory("report/html/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        "<work>/logs/page.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        code=catalogues.digest("report", "workflow/schemas"),
    message:
        "Page, tables and figures"
    shell:
        "python -m report page --out {output.page} --tables {output.tables} --figures {output.figures} {input} 2>&1 | tee {log}"


rule partial:
    # The page from the cells that exist, with a word for each that does not: a failed cell keeps `all` from making it.
    log:
        "<work>/logs/partial.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        cells=CELLS,
        why=WHY_MISSING,
    shell:
        "python -m report page --out report/html/index.html --tables report/html/tables --figures report/html/figures"
        " {params.why} {params.cells} 2>&1 | tee {log}"


onerror:
    # Snakemake says which run failed; what was not made for its sake it passes over in silence.
    asked = [target for target in workflow.dag_settings.targets if target.endswith(".json")]
    shell("python -m report failures {WHY_MISSING} {cells}", cells=asked or CELLS)


rule refuse:
    # Catches names of cells that no catalogue knows, so that the answer says which there are.
    input:
        refuse,
    output:
        "results/{name}.json",
    log:
        "<work>/logs/refused/{name}.log",
    wildcard_constraints:
        name=f"(?!({'|'.join(CATALOGUE.methods)})_({'|'.join(CATALOGUE.tasks)})\\.json)[^/]+",
    conda:
        "../../environment.yml"
    shell:
        "false"
