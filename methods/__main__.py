"""`python -m methods`: the commands that the rules of the workflow call, and that a person can call.

Imports are inside the commands, so that each loads only what it needs.
"""

import argparse
import contextlib
import gc
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from methods.common import environment, interrupt, schedule
from methods.common.errors import UserError, explain
from methods.common.progress import clock
from methods.common.terminal import as_json, plain

# What a request of each command must have.
NEEDED = {
    "base": ("code",),
    "data": ("task", "entry", "source", "max_length", "train_rows", "code"),
    "run": ("method", "task", "seed", "spec", "budget", "ancestors", "product", "latent", "code", "scoring"),
    "prefetch": ("repositories", "mirror"),
}
BENCH = "measure this machine, contenders in turns: ratios of speed, in training or inference"
MOST = 2**32 - 1  # the largest seed: what numpy and torch take


def main(argv: list[str] | None = None) -> int:
    if sys.flags.optimize:
        print("error: Python's -O and PYTHONOPTIMIZE drop checks: unset it and run the same command again.", file=sys.stderr)
        return 1
    arguments = _arguments(argv)
    if removed := environment.clean():
        _say(f"These variables could change results and are ignored: {', '.join(removed)}")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads wait asleep: where they wait spinning, two of them beside any other work are many times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if lacking := [key for key in NEEDED.get(arguments.command.__name__, ()) if key not in (arguments.request or key)]:
            raise UserError(f"--request lacks {lacking[0]!r}: pass a whole request, as the workflow does.")
        arguments.command(arguments)
        if sys.stdout:
            sys.stdout.flush()  # what does not fit on the disk is told
    except UserError as error:
        _say(f"error: {error}")
        return 1
    except interrupt.Interrupted:
        return interrupt.EXIT_CODE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has seen enough; nor may Python complain when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if (line := explain(error)) is None:
            raise
        _say(f"error: {line}")
        return 1
    return 0


PREDICT = (
    "Ask a model file. Texts stand in the order of the task's columns; for SQuAD the question comes first, then the "
    "passage. Without a text, every line of stdin is a JSON object with the columns' own names or with text and pair, "
    "and every answer a line of JSON, in the same order, given as soon as the input pauses. Texts are cut as in training. "
    "Models whose activation ranges come from the batch (min-max) answer slightly differently in other batches; "
    "--batch 1 answers each line alone."
)

LATENCY = (
    "Time the model of a finished run on its task's dev rows, alone and in batches of 32, by their real lengths; then score "
    "the whole dev set through the same engine and compare with the scores of the run. Let nothing else run meanwhile."
)

PLAN = (
    "Measure a training step of each kind of run on this device, with random weights of the preset's shape, and say what "
    "all runs take. Nothing is trained, fetched or kept. Data files that are made already are read for their rows."
)

EXPORT = (
    "Write a model file for other tools, into a new folder with its tokenizer. onnx: one graph with the weights' codes as "
    "they are, checked in the runtime that it is for. hf: decoded weights, which AutoModel loads. See docs/export.md."
)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 upwards")
    return int(text)


def _list(one: Callable) -> Callable[[str], list]:
    """Return what reads words between commas, each once."""
    return lambda text: list(dict.fromkeys(map(one, text.split(","))))


def _threads(text: str) -> int:
    count = os.cpu_count() if text == "all" else _positive(text)
    if count > os.cpu_count():
        raise argparse.ArgumentTypeError(f"{text} threads are more than the {os.cpu_count()} cores of this machine")
    return count


def _length(text: str) -> int | str:
    return text if text in ("mrpc", "mrpc-sorted") else _positive(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")


def canonical(request: dict) -> dict:
    """Return a request as the workflow's jobs read it, so that a run made by hand has the same bytes."""
    return json.loads(json.dumps(request, sort_keys=True, allow_nan=False))


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) > MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {MOST}")
    return int(text)


def _request(text: str) -> dict:
    """Return a request from its JSON; argparse reports anything else in one line."""
    try:
        request = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"a request is one JSON object, and this is none ({error})") from None
    if not isinstance(request, dict) or not request:
        raise argparse.ArgumentTypeError(f"a request is one JSON object, and not {text[:40]}")
    return request


def _ancestor(text: str) -> tuple[str, Path]:
    role, equals, folder = text.partition("=")
    if not (role and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not ROLE=DIR, such as teacher=results/demo/runs/fp32/rte/1")
    return role, Path(folder)


def _say(line: str, stream=None) -> None:
    """Print a line, by the first of the processes that share a run."""
    if os.environ.get("RANK", "0") == "0":
        print(plain(line), file=stream or sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m methods", description="Make, score, inspect and use compressed models.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(function, name: str, help: str, description: str | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=description or help)
        sub.set_defaults(command=function)
        return sub

    def configured(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--preset", help="preset to take the configuration from (default: config/config.yaml's)")
        text = "YAML file of keys over those of config/config.yaml, as Snakemake's own --configfile"
        sub.add_argument("--configfile", type=Path, metavar="FILE", help=text)

    def step(function, name: str, help: str) -> argparse.ArgumentParser:
        """Add a command of the workflow, with its configuration or a request."""
        sub = command(function, name, help)
        configured(sub)
        sub.add_argument("--request", type=_request, help="the whole request as JSON instead (what the workflow passes)")
        return sub

    sub = step(base, "base", "make the base model file of the preset, or of a task with a model of its own")
    sub.add_argument("task", nargs="?")
    sub.add_argument("--out", type=Path)
    sub = step(data, "data", "make a task's tokenised data file")
    sub.add_argument("task", nargs="?")
    text = "with the augmented training rows of the configuration's `augmentation`"
    sub.add_argument("--augmented", action="store_true", help=text)
    sub.add_argument("--base", type=Path)
    sub.add_argument("--out", type=Path)
    sub = step(run, "run", "train, save, load back and score one method on one task with one seed")
    sub.add_argument("method", nargs="?")
    sub.add_argument("task", nargs="?")
    sub.add_argument("--seed", type=_seed, default=1)
    sub.add_argument("--data", type=Path)
    sub.add_argument("--base", type=Path)
    text = "folder of the run in a role, such as teacher=DIR (repeat it for each role)"
    sub.add_argument("--ancestor", type=_ancestor, action="append", default=[], metavar="ROLE=DIR", help=text)
    sub.add_argument("--out", type=Path, help="folder of this run")
    sub.add_argument("--processes", type=int, default=1, help="devices to train on together, through accelerate launch")
    sub.add_argument("--checkpoint-steps", type=int, help="write a checkpoint every so many steps")
    sub.add_argument("--checkpoint-seconds", type=float, default=60, help="and every so many seconds")
    sub.add_argument("--plan", type=Path, help="plan of the workflow, to say how long the rest takes")
    sub = command(score, "score", "score a run's stored predictions again, through evaluate, and compare")
    sub.add_argument("folder", type=Path, help="folder of the run")
    sub.add_argument("--data", type=Path, required=True)
    step(prefetch, "prefetch", "copy the preset's hub repositories into the mirror")
    sub = command(inspect, "inspect", "print what a model file stores: origin, size by group, packed matrices")
    sub.add_argument("model", type=Path, help="a run's last.safetensors or best.safetensors")
    sub.add_argument("--layers", action="store_true", help="also each packed matrix with its bits and its step")
    sub.add_argument("--json", action="store_true", help="everything as JSON")
    sub = command(predict, "predict", "ask a model file about a text or a pair of texts", PREDICT)
    sub.add_argument("model", type=Path, help="a run's last.safetensors or best.safetensors")
    sub.add_argument("text", nargs="*", help="a sentence, and its pair where the task has pairs (SQuAD: question, passage)")
    sub.add_argument("--base", type=Path, help="the base model file that holds the model's tokenizer")
    sub.add_argument("--batch", type=_positive, default=64, help="lines of stdin answered together (default: %(default)s)")
    text = "packed: the engine for packed weights; torch: the slower code that scored the model (default: %(default)s)"
    sub.add_argument("--engine", choices=["packed", "torch"], default="packed", help=text)
    sub.add_argument("--threads", type=_positive, help="computing threads (default: all cores)")
    sub = command(export, "export", "write a model file as an ONNX graph, or as a folder for transformers", EXPORT)
    sub.add_argument("model", type=Path, help="a run's last.safetensors or best.safetensors")
    sub.add_argument("--to", choices=["onnx", "hf"], required=True, help="onnx: a graph for runtimes; hf: for transformers")
    sub.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    text = "runtime that the ONNX graph is for and checked in (default: %(default)s)"
    sub.add_argument("--for", dest="runtime", choices=["onnxruntime", "openvino"], default="onnxruntime", help=text)
    text = "fewest bits of a weight's code in the ONNX graph, where the weight has so few (default: %(default)s)"
    sub.add_argument("--width", type=int, choices=[8, 4, 2], default=4, help=text)
    text = "give the ONNX graph the method's own dynamic ranges, which are slower"
    sub.add_argument("--exact", action="store_true", help=text)
    sub.add_argument("--base", type=Path, help="the base model file that holds the model's tokenizer")
    sub = command(latency, "latency", "measure the time of a run's model on the dev rows of its task", LATENCY)
    sub.add_argument("folder", type=Path, help="folder of the run")
    sub.add_argument("--data", type=Path, required=True, help="the task's data file")
    sub.add_argument("--out", type=Path, help="file to write (default: latency.json in the run's folder)")
    sub.add_argument("--protocol", choices=["last", "best"], default="last", help="which model (default: %(default)s)")
    sub.add_argument("--threads", type=_positive, help="computing threads (default: all cores)")
    text = "seconds for each batch size; what does not fit is left out (default: %(default)s)"
    sub.add_argument("--seconds", type=_seconds, default=2.0, help=text)
    sub = command(plan, "plan", "say what a preset's runs take on this device: hours, disk, memory", PLAN)
    configured(sub)
    for name in ("methods", "tasks"):
        sub.add_argument(f"--{name}", type=_list(str), metavar="NAME,...", help=f"other {name} than the preset's")
    sub.add_argument("--seeds", type=_list(_seed), metavar="N,...", help="other seeds than the preset's")
    sub.add_argument("--json", action="store_true", help="everything as JSON")
    _add_bench(commands.add_parser("bench", help=BENCH, description=BENCH).add_subparsers(required=True, metavar="what"))
    return parser


def _add_bench(commands) -> None:
    """Add the two benchmarks, each with its own options."""
    sizes = {"choices": ["tiny", "minilm", "base"], "default": "minilm", "help": "(default: %(default)s)"}
    help = "a distilled training step with ternary weights, against one written as in 2020"
    sub = commands.add_parser("train", help=help, description=help)
    sub.set_defaults(command=bench_train)
    sub.add_argument("--size", **sizes)
    sub.add_argument("--batch", type=_positive, default=32, help="rows of a step (default: %(default)s)")
    sub.add_argument("--rounds", type=_positive, default=7, help="timed turns for each length (default: %(default)s)")
    sub.add_argument("--threads", type=_positive, default=os.cpu_count(), help="computing threads (default: all)")
    help = "packed models of this project, against torch, ONNX Runtime and OpenVINO where these are installed"
    sub = commands.add_parser("inference", help=help, description=help)
    sub.set_defaults(command=bench_inference)
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--size", **sizes)
    what.add_argument("--model", type=Path, help="measure this model file instead, and a float model of its shape")
    sub.add_argument("--batch", type=_list(_positive), default=[1, 8], help="rows of a batch (default: 1,8)")
    lengths = "tokens of a row, or mrpc: as long as MRPC's rows, as they come; mrpc-sorted: sorted by length"
    sub.add_argument("--length", type=_list(_length), default=[16, 32, 128, 384], help=f"{lengths} (default: 16,32,128,384)")
    sub.add_argument(
        "--threads", type=_list(_threads), default=sorted({1, os.cpu_count()}), help="computing threads (default: 1,all)"
    )
    sub.add_argument("--rounds", type=_positive, default=7, help="timed turns of each contender (default: %(default)s)")
    names = "contenders by name, or all whose name starts with a word, such as engine (default: all)"
    sub.add_argument("--only", type=_list(str), metavar="NAME,...", help=names)
    sub.add_argument("--compiled", action="store_true", help="torch.compile too, which takes most of a minute a shape")
    sub.add_argument("--json", action="store_true", help="everything as JSON")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; texts of `predict` may stand behind its options too, where argparse would not look."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    words_before = rest.index("--") if "--" in rest else len(rest)
    if arguments.command is predict and not any(word.startswith("-") for word in rest[:words_before]):
        arguments.text += rest[:words_before] + rest[words_before + 1 :]
        rest = []
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def base(arguments) -> None:
    catalogue = None if arguments.request else _catalogue(arguments, task=arguments.task)
    request = arguments.request or canonical(catalogue.request_base(arguments.task))
    generated = request.get("base", {}).get("source") == "generated"
    if generated:
        _say(f"base model: pre-training on {request['base']['texts']} generated texts", sys.stdout)
    with _loading():
        from methods.tasks.base import make

    started = time.monotonic()
    name = catalogue.base_file(arguments.task) if catalogue and arguments.task else "base.safetensors"
    make(arguments.out or _work(catalogue) / name, request)
    if generated:
        _say(f"base model: ready after {clock(time.monotonic() - started)}", sys.stdout)


def data(arguments) -> None:
    _require_names(arguments, "task")
    catalogue = None if arguments.request else _catalogue(arguments, task=arguments.task)
    request = arguments.request or canonical(catalogue.request_data(arguments.task, arguments.augmented))
    from methods.tasks import encode, sources

    if request.get("augmentation"):
        interrupt.listen()
    splits = sources.rows(request)
    base_path = arguments.base or _work(catalogue) / catalogue.base_file(request["task"])
    tokenizer = encode.read_tokenizer(base_path)
    out = arguments.out or _work(catalogue) / catalogue.data_file(request["task"], "augmentation" in request)
    encode.write_task(out, request, tokenizer, splits, base_path)


def run(arguments) -> None:
    if arguments.processes > 1 and "LOCAL_RANK" not in os.environ:
        _launch(arguments.processes)
    _require_names(arguments, "method", "task")
    catalogue = None if arguments.request else _catalogue(arguments, method=arguments.method, task=arguments.task)
    request = arguments.request or canonical(catalogue.request(arguments.method, arguments.task, arguments.seed))
    folders = dict(arguments.ancestor)
    if unknown := folders.keys() - request["ancestors"].keys():
        raise UserError(f"{request['method']} has no ancestor {unknown.pop()!r}. Its roles: {_roles(request)}.")
    for role, (method, task, seed) in request["ancestors"].items():
        folders[role] = folders.get(role) or _work(catalogue) / f"runs/{method}/{task}/{seed}"
    for folder in set(folders.values()):
        _check_record(folder)
    import importlib

    with _loading():
        from methods import run as harness

        family = importlib.import_module(f"methods.{request['spec']['family']}")
    here = f"runs/{request['method']}/{request['task']}/{request['seed']}"
    record = harness.execute(
        request,
        family,
        arguments.out or _work(catalogue) / here,
        data_path=arguments.data or _work(catalogue) / catalogue.data_file(request["task"], "augmentation" in request),
        base_path=arguments.base or _work(catalogue) / catalogue.base_file(request["task"]),
        ancestors=folders,
        checkpoint_steps=arguments.checkpoint_steps,
        checkpoint_seconds=arguments.checkpoint_seconds,
    )
    time_left = schedule.left(arguments.plan) if arguments.plan else None
    _say(_summary(record) + (f"  [{time_left}]" if time_left else ""), sys.stdout)


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """Load libraries without looking for garbage among their objects, which all stay: that takes 0.3 s (measured)."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _roles(request: dict) -> str:
    return ", ".join(request["ancestors"]) or "none"


def _launch(processes: int) -> NoReturn:
    """Become `accelerate launch`, which starts this very command once for each process."""
    # What it calls multi-GPU means several processes, on CPUs too. Port 0 is a free one, so that runs can stand side by
    # side; the rest are its defaults, said aloud because it warns where they are not.
    options = f"--multi_gpu --num_processes={processes} --main_process_port=0"
    options += " --num_machines=1 --mixed_precision=no --dynamo_backend=no --module methods"
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", *options.split(), *sys.argv[1:]])


def _check_record(folder: Path) -> None:
    """Raise one line for a run's folder whose run.json does not fit its schema; its readers trust it."""
    from methods.common.schema import read_valid

    if (path := folder / "run.json").exists():  # each reader says in its own words what to do about a missing one
        read_valid(path, "run.schema.yaml")


def score(arguments) -> None:
    from methods.scoring.rescore import rescore

    _check_record(arguments.folder)
    for line in rescore(arguments.folder, arguments.data):
        print(plain(line))


def prefetch(arguments) -> None:
    from methods.tasks import hub

    catalogue = None if arguments.request else _catalogue(arguments)
    request = arguments.request or {
        "repositories": catalogue.repositories(),
        "mirror": catalogue.config["data"]["mirror"],
    }
    for folder in hub.prefetch(request["repositories"], request["mirror"]):
        print(f"copied to {folder}")


def inspect(arguments) -> None:
    from methods.use import inspection

    found = inspection.facts(arguments.model)
    print(as_json(found, indent=1) if arguments.json else inspection.page(found, arguments.layers))


def predict(arguments) -> None:
    if not arguments.text and (sys.stdin is None or sys.stdin.isatty()):
        raise UserError("no text was given: write it behind the model file, or pipe lines of JSON in.")
    with _loading():
        from methods.use import Model, prediction

    options = {"engine": arguments.engine, "threads": arguments.threads, "base": arguments.base}
    with Model(arguments.model, **options) as model:
        if arguments.text:
            (answer,) = model.answers([model.row(arguments.text)])
            print(prediction.page(answer, model.kind))
            return
        for line in prediction.answered(model, sys.stdin.buffer, arguments.batch):
            print(line, flush=True)


def export(arguments) -> None:
    from methods.use import export as exporting

    where = arguments.model, arguments.folder, arguments.base
    if arguments.to == "hf":
        lines = exporting.to_hf(*where)
    else:
        lines = exporting.to_onnx(*where, arguments.runtime, arguments.width, arguments.exact)
    for line in lines:
        print(line)


def latency(arguments) -> None:
    from methods.common import files
    from methods.use import latency as measuring

    _check_record(arguments.folder)
    found = measuring.measure(arguments.folder, arguments.data, arguments.protocol, arguments.threads, arguments.seconds)
    files.write_json(arguments.out or arguments.folder / measuring.NAME, found)
    print(measuring.line(found, str(arguments.folder)))


def plan(arguments) -> None:
    chosen = {name: getattr(arguments, name) for name in ("methods", "tasks", "seeds") if getattr(arguments, name)}
    catalogue = _catalogue(arguments, changes=chosen)
    with _loading():
        from methods.planning import estimate, page

    found = estimate.make(catalogue, _work(catalogue), _say)
    print(as_json(page.facts(catalogue, found), indent=1) if arguments.json else page.table(catalogue, found))


def bench_train(arguments) -> None:
    from methods.use.bench import train

    print(train.bench_train(arguments.size, arguments.batch, arguments.rounds, arguments.threads))


def bench_inference(arguments) -> None:
    from methods.use.bench import inference, tables

    chosen = {name: getattr(arguments, name) for name in ("size", "model", "rounds", "only", "compiled")}
    shapes = {"batches": arguments.batch, "lengths": arguments.length, "threads": arguments.threads}
    report = inference.bench_inference(inference.Wanted(**chosen, **shapes), _say)
    print(json.dumps(report, indent=1) if arguments.json else tables.page(report))


def _catalogue(arguments, method: str | None = None, task: str | None = None, changes: dict | None = None):
    """Return the catalogue of the configuration on disk; names are checked before anything slow is loaded."""
    from workflow import catalogue

    found = catalogue.load(catalogue.read_config(arguments.configfile, arguments.preset) | (changes or {}))
    found.require(method, task)
    return found


def _require_names(arguments, *names: str) -> None:
    if not arguments.request and (lacking := [name for name in names if getattr(arguments, name) is None]):
        raise UserError(f"Name the {' and the '.join(lacking)} too: see `python -m methods --help` and config/methods/.")


def _work(catalogue) -> Path:
    if catalogue is None:
        raise UserError(
            "with --request every file has to be named: --out, --base, --data, and --ancestor ROLE=DIR for each role."
        )
    return Path("results") / catalogue.config["preset"]


def _summary(record: dict) -> str:
    request = record["request"]
    name = f"{request['method']} {request['task']} seed {request['seed']}"
    if record["status"] != "ok":
        return f"{name}: {record['status']}: {record['reason']}"
    if record["scores"] is None:
        return f"{name}: {', '.join(record['files'])} written"
    scores = [f"{protocol} {record['scores'][protocol]['metrics'][record['metric']]:.2f}" for protocol in ("last", "best")]
    return f"{name}: {record['metric']} {', '.join(scores)} (baseline {record['baseline']['metrics'][record['metric']]:.2f})"


def _leave(code: int) -> NoReturn:
    """End the process without tearing torch down, which takes half a second of a CPU (measured)."""
    with contextlib.suppress(OSError, ValueError):
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    status = main()
    if "LOCAL_RANK" in os.environ or threading.active_count() > 1:
        sys.exit(status)
    _leave(status)
