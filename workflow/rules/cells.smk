# The cheap part: cells, which sum up a method's runs over seeds, and the page, which reads cells. Where texts may be shown and
# exist, it shows those of a few rows; they are no input, because the page is made without them too.


rule cell:
    input:
        inputs_of_cell,
    output:
        "results/{method}_{task}.json",
    log:
        "<work>/logs/cells/{method}_{task}.log",
    wildcard_constraints:
        method="|".join(CATALOGUE.cell_methods()),
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folders=lambda wildcards: [os.path.dirname(run) for run in runs_of(wildcards.method, wildcards.task)],
        primary=CATALOGUE.config["primary"],
        about=lambda wildcards: catalogues.dump(CATALOGUE.about(wildcards.method, wildcards.task)),
        overrides=lambda wildcards: catalogues.dump(CATALOGUE.overrides(wildcards.method, wildcards.task)),
        latency="" if LATENCY else "--no-latency",
        code=catalogues.digest(*catalogues.CELL_SOURCES),
    message:
        "Cell {wildcards.method} on {wildcards.task}"
    shell:
        "python -m report cell --out {output:q} --primary {params.primary} --about {params.about:q}"
        " --overrides {params.overrides:q} {params.latency} --run {params.folders:q} > {log:q} 2>&1"


rule page:
    input:
        CELLS,
    output:
        page=report(f"{PAGE}/index.html", caption="../report/page.rst", category="Page"),
        # Folders, because the cells decide which figures there are. They are cheap and nothing reads them.
        tables=report(
            directory(f"{PAGE}/tables"),
            patterns=["{table}.csv"],
            caption="../report/tables.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        figures=report(
            directory(f"{PAGE}/figures"),
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
        options=PAGE_OPTIONS,
        code=catalogues.digest(*catalogues.PAGE_SOURCES),
    message:
        "Page, tables and figures"
    shell:
        "{{ python -m report page --out {output.page:q} --tables {output.tables:q} --figures {output.figures:q}"
        " {params.options} {input:q}"
        " && python -m report entry --out report/html/index.html; }} > {log:q} 2>&1"


rule partial:
    # The page from the cells that exist, with the reason of each that does not: a failed cell keeps `all` from making it.
    log:
        "<work>/logs/partial.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        cells=CELLS,
        why=WHY_MISSING,
        options=PAGE_OPTIONS,
        page=PAGE,
    shell:
        "{{ python -m report page --out {params.page:q}/index.html --tables {params.page:q}/tables"
        " --figures {params.page:q}/figures {params.options} {params.why} {params.cells:q}"
        " && python -m report entry --out report/html/index.html; }} 2>&1 | tee {log:q}"


onstart:
    jobs = list(workflow.dag.needrun_jobs())
    runs = [(job.wildcards.method, job.wildcards.task, job.wildcards.seed) for job in jobs if job.rule.name == "run"]
    steps = {"/".join(run): CATALOGUE.steps(run[0], run[1]) for run in runs}
    terminal.start(Path(PLAN), jobs, steps)


onsuccess:
    print(terminal.results(asked_cells()), file=sys.stderr)
    if any(job.rule.name in ("page", "partial") for job in workflow.dag.jobs):
        print(f"The page: {os.path.abspath(PAGE)}/index.html", file=sys.stderr)


onerror:
    # Snakemake names the run that failed, and passes over what was not made because of it.
    shell("python -m report failures {WHY_MISSING} {cells:q}", cells=asked_cells())


rule refuse:
    # Catches names of cells that no catalogue knows, so that the answer says which there are.
    input:
        refuse,
    output:
        "results/{name}.json",
    log:
        "<work>/logs/refused/{name}.log",
    wildcard_constraints:
        name=f"(?!({'|'.join(CATALOGUE.cell_methods())})_({'|'.join(CATALOGUE.tasks)})\\.json)[^/]+",
    conda:
        "../../environment.yml"
    shell:
        "false"
