"""Commands whose process is killed at a chosen write, as by a power cut.

A :class:`Machine` is a process that has imported everything once and forks for each command. In the
fork every step that changes what is on disk is counted: files opened for writing, their content
(first the half of it), syncs, moves, links, folders, and each statement and commit of a database.
At the chosen step the process kills itself. Python's audit events and ``os.fsync`` tell of the
steps, so that the code under test is what runs; within a commit of SQLite there is no step.

A power cut is worse than a kill: what was not synced may be gone. With ``lose_unsynced`` all of it
is: names that were made, moved or removed in a folder after its last sync are as they were before,
and files have half of what was written to them since theirs.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; None if it was killed.
        steps: That it made; 0 if it was killed.
        out: Its output, and standard error.
    """

    code: int | None
    steps: int
    out: str


class Machine:
    """Runs ``smdl`` commands; see :func:`machine`."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self._folder = folder

    def run(self, *arguments: object, cut: int | None = None, lose_unsynced: bool = False) -> Ended:
        """Run a command to its end, or to the given step, counted from 1."""
        (ended,) = self.run_together([arguments], cut=cut, lose_unsynced=lose_unsynced)
        return ended

    def run_together(
        self,
        commands: Sequence[Sequence[object]],
        *,
        cut: int | None = None,
        lose_unsynced: bool = False,
        kill_after: float | None = None,
    ) -> list[Ended]:
        """Run commands at once, each in a process of its own; kill them after some seconds."""
        request = {
            "commands": [[str(a) for a in c] for c in commands],
            **{"cut": cut, "lose_unsynced": lose_unsynced, "kill_after": kill_after},
            **{"umask": 0, "folder": str(self._folder)},
        }
        _pipe(self._process.stdin).write(json.dumps(request) + "\n")
        _pipe(self._process.stdin).flush()
        answer = json.loads(_pipe(self._process.stdout).readline())
        return [Ended(*each) for each in answer]


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Start a machine; power cuts lose what lies unsynced below ``folder``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.power"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Machine(process, folder)
        _pipe(process.stdin).close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def tiny(channels: int, classes: int) -> "nn.Module":
    """The smallest network that bears 64 bits, for images of 8 pixels: its issuing is quick."""
    from torch import nn  # noqa: PLC0415

    hidden = nn.Linear(64 * channels, 100)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(100, classes))


# ------------------------------------------------------------------------------- within the machine


class Disk:
    """What a process did to the disk: counts, cuts, and loses what was not synced."""

    def __init__(self, below: Path, cut: int | None, *, lose_unsynced: bool) -> None:
        self.steps = 0
        self._below = str(below)
        self._cut = cut
        self._lose = lose_unsynced
        self._busy = False
        self._undo: list[tuple[str, Callable[[], None]]] = []  # of names, by their folder
        self._unsynced: set[int] = set()  # inodes of files

    def watch(self) -> None:
        import sqlalchemy as sql  # noqa: PLC0415

        self._fsync, self._fdopen = os.fsync, os.fdopen
        os.fsync, os.fdopen = self.fsync, self.fdopen  # type: ignore[assignment]
        sys.addaudithook(self.audit)
        for name in ("before_cursor_execute", "commit", "rollback"):
            sql.event.listen(sql.Engine, name, lambda *_, **__: self.step())

    def step(self) -> None:
        self.steps += 1
        if self.steps == self._cut:
            self._busy = True
            if self._lose:
                self._lose_unsynced()
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(self, descriptor: int) -> None:
        self.step()
        self._fsync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        self._unsynced.discard(os.fstat(descriptor).st_ino)
        self._undo = [(folder, undo) for folder, undo in self._undo if folder != path]

    def fdopen(self, descriptor: int, mode: str = "r", *rest: Any, **named: Any) -> Any:
        stream = self._fdopen(descriptor, mode, *rest, **named)
        if not set(mode) & set("wa"):
            return stream
        write, disk = stream.write, self

        class Halved:
            """The file, whose content arrives in two halves."""

            def __getattr__(self, name: str) -> Any:
                return getattr(stream, name)

            def __enter__(self) -> "Halved":
                return self

            def __exit__(self, *_: object) -> None:
                stream.close()

            def write(self, content: bytes) -> int:
                disk._unsynced.add(os.fstat(descriptor).st_ino)
                for part in (content[: len(content) // 2], content[len(content) // 2 :]):
                    disk.step()
                    write(part)
                    stream.flush()
                return len(content)

        return Halved()

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        happening = _EVENTS.get(event)
        if happening is None or self._busy:
            return
        try:
            paths = [os.path.abspath(os.fsdecode(p)) for p in happening(arguments)]
        except TypeError:  # a descriptor
            return
        if not paths or not paths[-1].startswith(self._below):
            return
        self.step()
        self._busy = True  # looking at the disk is no step
        try:
            undo = _undoing(event, paths)
        finally:
            self._busy = False
        if undo:
            self._undo.append((os.path.dirname(paths[-1]), undo))

    def _lose_unsynced(self) -> None:
        for path in Path(self._below).rglob("*"):
            if path.is_file() and path.stat().st_ino in self._unsynced:
                os.truncate(path, path.stat().st_size // 2)
        for _, undo in reversed(self._undo):
            undo()


def _opened(arguments: tuple[Any, ...]) -> list[Any]:
    path, _, flags = arguments
    writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    return [path] if writes else []


_EVENTS: dict[str, Callable[[tuple[Any, ...]], list[Any]]] = {
    "open": _opened,
    "os.rename": lambda a: [a[0], a[1]],
    "os.link": lambda a: [a[0], a[1]],
    "os.mkdir": lambda a: [a[0]],
    "os.remove": lambda a: [a[0]],
    "os.rmdir": lambda a: [a[0]],
    "os.chmod": lambda a: [a[0]],
    "os.truncate": lambda a: [a[0]],
}


def _undoing(event: str, paths: list[str]) -> Callable[[], None] | None:
    """What takes a change of names back that is about to happen."""
    target = Path(paths[-1])
    content, mode = (target.read_bytes(), target.stat().st_mode) if target.is_file() else (None, 0)

    def vanish() -> None:
        if target.is_dir():
            _remove_tree(target)
        elif target.exists():
            target.unlink()

    def back() -> None:
        if content is not None and not target.exists():
            target.write_bytes(content)
            target.chmod(mode)

    def move_back() -> None:
        target.rename(paths[0])
        back()

    undo = {"os.rename": move_back, "os.remove": back, "os.rmdir": target.mkdir}.get(event)
    if undo:
        return undo
    makes_it = event in ("open", "os.link", "os.mkdir") and not os.path.lexists(target)
    return vanish if makes_it else None


def _remove_tree(folder: Path) -> None:
    for path in folder.iterdir():
        _remove_tree(path) if path.is_dir() else path.unlink()
    folder.rmdir()


def _child(words: list[str], request: dict[str, Any], result: int, out: Path) -> None:
    from smdl_flower.cli.main import run  # noqa: PLC0415

    os.umask(request["umask"])
    stream = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    disk = Disk(Path(request["folder"]), request["cut"], lose_unsynced=request["lose_unsynced"])
    disk.watch()
    code = run(words)
    sys.stdout.flush()
    os.write(result, json.dumps([code, disk.steps]).encode())
    os._exit(0)


def _serve(request: dict[str, Any]) -> list[tuple[int | None, int, str]]:
    begun = []
    for number, words in enumerate(request["commands"]):
        out = Path(request["folder"]).with_suffix(f".out{number}")
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _child(words, request, writing, out)
            finally:
                os._exit(99)
        os.close(writing)
        begun.append((pid, reading, out))
    if request["kill_after"] is not None:
        import time  # noqa: PLC0415

        time.sleep(request["kill_after"])
        for pid, _, _ in begun:
            os.kill(pid, signal.SIGKILL)  # not yet waited for: it is this child
    ends = []
    for pid, reading, out in begun:
        _, status = os.waitpid(pid, 0)
        with os.fdopen(reading, "rb") as stream:
            said = stream.read()
        code, steps = json.loads(said) if said else (None, 0)
        if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
            code = 1  # neither the end of a command nor our kill
        ends.append((code, steps, out.read_text(errors="replace") if out.exists() else ""))
        out.unlink(missing_ok=True)
    return ends


def main() -> None:
    """Answer requests, one a line, until there are no more."""
    import torch  # noqa: PLC0415

    from smdl_flower.cli import main as cli  # noqa: PLC0415, F401
    from smdl_flower.data import load_test  # noqa: PLC0415, F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_serve(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
