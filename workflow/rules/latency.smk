# The time of predictions: of one run of each cell, on the dev rows of its task, with nothing beside it.


rule latency:
    input:
        run="<work>/runs/{method}/{task}/{seed}/run.json",
        # Its date says nothing: run.json holds the hash of the rows.
        data=ancient(rules.data.output[0]),
    output:
        "<work>/runs/{method}/{task}/{seed}/latency.json",
    log:
        "<work>/logs/{method}/{task}/{seed}.latency.log",
    conda:
        "../../environment.yml"
    # All cores, so that no other job of this machine runs meanwhile. Without a priority, what trains goes first.
    threads: ALL_CORES
    params:
        code=LATENCY["code"],
        protocol=LATENCY["protocol"],
        seconds=LATENCY["seconds"],
        threads=f"--threads {LATENCY['threads']}" if LATENCY["threads"] else "",
    message:
        "Latency of {wildcards.method} on {wildcards.task}, seed {wildcards.seed}"
    shell:
        "python -m methods latency $(dirname {input.run:q}) --data {input.data:q} --out {output:q}"
        " --protocol {params.protocol} --seconds {params.seconds} --threads {threads} {params.threads} > {log:q} 2>&1"
