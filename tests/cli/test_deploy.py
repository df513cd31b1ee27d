"""What the owner is shown at the end of a deployed run."""

import os
import time

from smdl_flower.cli import deploy


def test_the_folder_of_the_run_that_has_just_ended_is_found(tmp_path):
    begun = time.time() - 10

    def run(name, age):
        path = tmp_path / "runs" / name / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        os.utime(path, (begun - age, begun - age))
        return path.parent

    assert deploy._run_folder(tmp_path, "trial", begun) is None  # no home on this machine
    run("trial-20250101T000000Z", age=100)
    run("other-20260101T000000Z", age=-5)
    assert deploy._run_folder(tmp_path, "trial", begun) is None
    ended = run("trial-20260101T000000Z", age=-5)
    found = deploy._run_folder(tmp_path, "trial", begun)
    assert found is not None
    assert found.path == ended
