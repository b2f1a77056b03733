# The expensive part: the base model, each task's data, and the one rule that trains.
# `params` carry everything that a product depends on beside its inputs, a digest of the code it executes included.
# What a command prints goes to the terminal and ends its log, which has the rest: losses, warnings and errors.


rule base:
    output:
        ensure("<work>/base.safetensors", non_empty=True),
    log:
        "<work>/logs/base.log",
    priority: FIRST
    conda:
        "../../environment.yml"
    threads: CATALOGUE.config["base"].get("threads", 1)
    params:
        request=catalogues.dump(CATALOGUE.request_base()),
    message:
        "Base model"
    shell:
        ": > {log:q}; python -m methods base --request {params.request:q} --out {output:q} 2>> {log:q} | tee -a {log:q}"


rule base_of_task:
    # The encoder, head and tokenizer of a task's own fine-tuned model.
    input:
        own_model,
    output:
        ensure("<work>/base/{task}.safetensors", non_empty=True),
    log:
        "<work>/logs/base/{task}.log",
    conda:
        "../../environment.yml"
    params:
        request=lambda wildcards: catalogues.dump(CATALOGUE.request_base(wildcards.task)),
    message:
        "Base model of {wildcards.task}"
    shell:
        ": > {log:q}; python -m methods base --request {params.request:q} --out {output:q} 2>> {log:q} | tee -a {log:q}"


rule data:
    input:
        own_rows,
        base=base_of,
    output:
        ensure("<work>/data/{task}.safetensors", non_empty=True),
    log:
        "<work>/logs/data/{task}.log",
    priority: FIRST
    conda:
        "../../environment.yml"
    params:
        request=lambda wildcards: catalogues.dump(CATALOGUE.request_data(wildcards.task)),
    message:
        "Data of {wildcards.task}"
    shell:
        ": > {log:q}; python -m methods data --request {params.request:q} --base {input.base:q} --out {output:q}"
        " 2>> {log:q} | tee -a {log:q}"


rule augmented_data:
    # The same rows with copies of the training rows behind them, for students.
    input:
        own_rows,
        vectors=word_vectors,
        base=base_of,
    output:
        ensure("<work>/data/{task}.augmented.safetensors", non_empty=True),
    log:
        "<work>/logs/data/{task}.augmented.log",
    priority: FIRST
    conda:
        "../../environment.yml"
    threads: CATALOGUE.config["threads"]
    resources:
        gpu=0,
    params:
        request=lambda wildcards: catalogues.dump(CATALOGUE.request_data(wildcards.task, augmented=True)),
    message:
        "Augmented data of {wildcards.task}"
    shell:
        ": > {log:q}; python -m methods data --request {params.request:q} --base {input.base:q} --out {output:q}"
        " 2>> {log:q} | tee -a {log:q}"


rule run:
    input:
        base=base_of,
        data=data_of,
        ancestors=ancestors,
    output:
        # Stands for the models and the predictions beside it: it is written last and holds their hashes. It is small, so
        # Snakemake compares it by content, and a run that is made again and comes out the same reruns nothing.
        "<work>/runs/{method}/{task}/{seed}/run.json",
    log:
        "<work>/logs/{method}/{task}/{seed}.log",
    benchmark:
        "<work>/runs/{method}/{task}/{seed}/benchmark.tsv"
    priority: lambda wildcards: PRIORITIES.get((wildcards.method, wildcards.task, int(wildcards.seed)), 1)
    conda:
        "../../environment.yml"
    threads: CATALOGUE.config["threads"]
    resources:
        gpu=0,
        processes=1,
        checkpoint_seconds=60,
    params:
        request=lambda wildcards: catalogues.dump(CATALOGUE.request(wildcards.method, wildcards.task, int(wildcards.seed))),
        # Named, because Snakemake asks nothing of a missing file as long as what was made from it is there: after a base
        # that failed, `all` would find the runs of another base good.
        sources=lambda wildcards: catalogues.dump(CATALOGUE.sources(wildcards.method, wildcards.task)),
        ancestors=ancestor_options,
        plan=PLAN,
    message:
        "Run of {wildcards.method} on {wildcards.task}, seed {wildcards.seed}"
    shell:
        ": > {log:q}; python -m methods run --request {params.request:q} --data {input.data:q} --base {input.base:q}"
        " {params.ancestors} --processes {resources.processes} --checkpoint-seconds {resources.checkpoint_seconds}"
        " --out $(dirname {output:q}) --plan {params.plan:q} 2>> {log:q} | tee -a {log:q}"


rule prefetch:
    log:
        "<work>/logs/prefetch.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        request=catalogues.dump({"repositories": CATALOGUE.repositories(), "mirror": CATALOGUE.config["data"]["mirror"]}),
    shell:
        "python -m methods prefetch --request {params.request:q} 2>&1 | tee {log:q}"
