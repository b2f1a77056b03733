"""Progress that a person can read: a bar on a terminal, plain lines in a log."""

import sys
import time

EVERY = 10.0  # seconds between two plain lines


class Progress:
    def __init__(self, title: str, total: int, stream=None, quiet: bool = False):
        self.title, self.total, self.stream, self.quiet = title, total, stream or sys.stderr, quiet
        self.step, self.started, self.spoke = 0, None, 0.0
        self.bar = None
        if self.stream.isatty() and not quiet:
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=title, file=self.stream, unit="step", leave=False)

    def say(self, text: str) -> None:
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.write(f"{self.title}: {text}", file=self.stream)
        else:
            print(f"{self.title}: {text}", file=self.stream, flush=True)

    def update(self, step: int, facts: dict[str, str]) -> None:
        """Note that `step` steps are done; `facts` are the losses and scores to show."""
        now = time.monotonic()
        if self.started is None:  # the first step after a start or a resume: the clock starts where work starts
            self.started = (now, step)
        if self.bar is not None:
            self.bar.set_postfix(facts, refresh=False)
            self.bar.update(step - self.bar.n)
        elif now - self.spoke > EVERY or step == self.total:
            self.spoke = now
            done = step - self.started[1]
            rate = done / (now - self.started[0]) if done else 0.0
            speed = f"  {rate:.1f} steps/s  {clock((self.total - step) / rate)} left" if rate else ""
            self.say(f"step {step}/{self.total}  " + "  ".join(f"{k} {v}" for k, v in facts.items()) + speed)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
