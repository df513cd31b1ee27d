"""Progress of a run, read from its folder while it grows; works for every engine."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from smdl_flower.cli.options import messages
from smdl_flower.flower.run_folder import RunFolder

REFRESH_SECONDS = 0.5


@contextmanager
def of_run(folder: Path, rounds: int, *, quiet: bool) -> Iterator[None]:
    """Show rounds, accuracy and issued copies on standard error until the block ends."""
    if quiet:
        yield
        return
    done = threading.Event()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} rounds"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=messages) as bars:
        watcher = threading.Thread(target=_watch, args=(bars, folder, rounds, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


@contextmanager
def of_rounds(rounds: int) -> Iterator[Callable[[int], None]]:
    """Show on standard error how many rounds a run elsewhere has begun; yields what to tell it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} rounds"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=messages) as bars:
        task = bars.add_task("Submitted", total=rounds)

        def begun(newest: int) -> None:
            bars.update(task, completed=newest, description="Training" if newest else "Submitted")

        yield begun


def _watch(bars: Progress, folder: Path, rounds: int, done: threading.Event) -> None:
    task = bars.add_task("Starting", total=rounds, note="")
    while True:
        last_look = done.is_set()
        lines = RunFolder(folder).metrics()
        copies = len(list((folder / "copies").glob("*.safetensors")))
        if lines:
            accuracy = lines[-1].get("accuracy")
            note = f"accuracy {accuracy:.1%}" if accuracy is not None else ""
            finished = lines[-1]["round"] >= rounds
            bars.update(
                task,
                completed=lines[-1]["round"],
                description="Fingerprinting" if finished else "Training",
                note=f"{note}, {copies} copies issued" if copies else note,
            )
        if last_look:
            return
        done.wait(REFRESH_SECONDS)
