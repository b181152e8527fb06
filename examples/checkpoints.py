"""Train on files of the storage in a job that may be preempted: it goes on from its checkpoint.

Without an argument it runs on a local platform of its own, in a few seconds, and takes bubblewrap;
``checkpoints.py --hosted`` does the same on the platform that you are logged in to.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from uuid import uuid4

from neuro_sync import JobRestartPolicy, Session

STEPS = 20
TRAIN = f"""\
import json, os, time

checkpoint, result = "/work/checkpoint.json", "/work/out/model.json"
numbers = [int(line) for line in open("/work/data/numbers.txt")]
state = {{"step": 0, "sum": 0}}
if os.path.exists(checkpoint):
    state = json.load(open(checkpoint))
print("from step", state["step"], flush=True)
while state["step"] < {STEPS}:
    state = {{"step": state["step"] + 1, "sum": state["sum"] + numbers[state["step"]]}}
    # Under another name first: a job may be ended in the middle of a write.
    with open(checkpoint + ".new", "w") as file:
        json.dump(state, file)
    os.replace(checkpoint + ".new", checkpoint)
    print("step", state["step"], flush=True)
    time.sleep(0.05)
os.makedirs(os.path.dirname(result), exist_ok=True)
with open(result, "w") as file:
    json.dump(state, file)
"""


def main() -> None:
    with platform() as session, tempfile.TemporaryDirectory() as folder:
        work = f"storage:checkpoints-{uuid4().hex[:8]}"
        source = Path(folder, "source")
        (source / "data").mkdir(parents=True)
        (source / "data/numbers.txt").write_text("".join(f"{n}\n" for n in range(STEPS)))
        (source / "train.py").write_text(TRAIN)
        session.storage.upload_dir(source, work)

        job = session.jobs.start(
            image="python:3.12",
            preset_name="cpu-small",
            command="python /work/train.py",
            volumes=[session.parse.volume(f"{work}:/work")],
            restart_policy=JobRestartPolicy.ON_FAILURE,
        )
        preempted = False
        with session.jobs.logs(job) as lines:
            for line in lines:
                print(line)
                if line == "step 5" and not preempted:
                    preempted = True
                    session.jobs.send_signal(job)  # as a machine that is taken away ends it
        ended = session.jobs.wait(job, check=True)
        print(f"{ended.status} after {ended.history.restarts} restart")

        session.storage.download_dir(f"{work}/out", Path(folder, "out"))
        print(Path(folder, "out/model.json").read_text())
        session.storage.rm(work, recursive=True)


def platform() -> Session:
    return Session() if sys.argv[1:] == ["--hosted"] else Session.local(ephemeral=True)


if __name__ == "__main__":
    main()
