# The expensive part: the base model, each task's data, and the one rule that trains.
# `params` carry everything that a product depends on beside its inputs, a digest of the code it executes included.


rule base:
    output:
        ensure("<work>/base.safetensors", non_empty=True),
    log:
        "<work>/logs/base.log",
    conda:
        "../../environment.yml"
    threads: CATALOGUE.config["base"].get("threads", 1)
    params:
        request=catalogues.dump(CATALOGUE.request_base()),
    message:
        "Base model"
    shell:
        "python -m methods base --request {params.request:q} --out {output} 2>&1 | tee {log}"


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
        "python -m methods base --request {params.request:q} --out {output} 2>&1 | tee {log}"


rule data:
    input:
        own_rows,
        base=base_of,
    output:
        ensure("<work>/data/{task}.safetensors", non_empty=True),
    log:
        "<work>/logs/data/{task}.log",
    conda:
        "../../environment.yml"
    params:
        request=lambda wildcards: catalogues.dump(CATALOGUE.request_data(wildcards.task)),
    message:
        "Data of {wildcards.task}"
    shell:
        "python -m methods data --request {params.request:q} --base {input.base} --out {output} 2>&1 | tee {log}"


rule run:
    input:
        base=base_of,
        data=rules.data.output[0],
        ancestors=ancestors,
    output:
        # Stands for the models and the predictions beside it: it is written last and holds their hashes. It is small, so
        # Snakemake compares it by content, and a run that is made again and comes out the same reruns nothing.
        "<work>/runs/{method}/{task}/{seed}/run.json",
    log:
        "<work>/logs/{method}/{task}/{seed}.log",
    benchmark:
        "<work>/runs/{method}/{task}/{seed}/benchmark.tsv"
    conda:
        "../../environment.yml"
    threads: CATALOGUE.config["threads"]
    resources:
        gpu=0,
        processes=1,
        checkpoint_seconds=60,
    params:
        request=lambda wildcards: catalogues.dump(CATALOGUE.request(wildcards.method, wildcards.task, int(wildcards.seed))),
        ancestors=ancestor_options,
    message:
        "Run of {wildcards.method} on {wildcards.task}, seed {wildcards.seed}"
    shell:
        "python -m methods run --request {params.request:q} --data {input.data} --base {input.base} {params.ancestors}"
        " --processes {resources.processes} --checkpoint-seconds {resources.checkpoint_seconds}"
        " --out $(dirname {output}) 2>&1 | tee {log}"


rule prefetch:
    log:
        "<work>/logs/prefetch.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        request=catalogues.dump({"repositories": CATALOGUE.repositories(), "mirror": CATALOGUE.config["data"]["mirror"]}),
    shell:
        "python -m methods prefetch --request {params.request:q} 2>&1 | tee {log}"
