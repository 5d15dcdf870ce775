"""Stands in for `nosbench_env.tasks.worker`: answers at once without training, or misbehaves as configured.

Run as `quick_worker.py FOLDER '{"sin": "kill", ...}'`: the behaviour with a program, by its first function. A behaviour
that ends in "-once" happens once, which the folder records.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def misbehave(how: str, reply) -> None:
    if how == "exit":
        sys.exit(7)
    if how == "orphan":  # a process that outlives it holds its pipe
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(15)"], stdin=subprocess.DEVNULL)
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "garbage":
        reply("Traceback of something")
    if how == "slow":  # but alive
        for step in range(600):
            reply(json.dumps({"index": 0, "step": step, "steps": 600, "loss": 1.0}))
            time.sleep(0.05)


def main() -> None:
    folder, behaviour = Path(sys.argv[1]), json.loads(sys.argv[2])

    def reply(line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            os._exit(0)

    reply(json.dumps({"ready": True}))
    for line in sys.stdin:
        request = json.loads(line)
        function = request["program"][0][0]
        with (folder / "asked").open("a") as file:
            file.write(f"{function}\n")
        how = behaviour.get(function, "")
        if how == "raise":
            reply(json.dumps({"index": request["index"], "error": "ValueError: no luck"}))
            continue
        if not how.endswith("-once") or not (folder / function).exists():
            (folder / function).touch()
            misbehave(how.removesuffix("-once"), reply)
        curve = {
            "step_losses": [[0.5, float("nan")]],
            "stopped_at": None,
            "first_epoch": request["epochs"] - 1,
            "validation_losses": None,
        }
        reply(json.dumps({"index": request["index"], "seconds": 0.25} | curve))


if __name__ == "__main__":
    main()
