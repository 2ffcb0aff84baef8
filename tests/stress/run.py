"""What takes too long for every run of the tests, one after the other, with a summary.

    python tests/stress/run.py                     # half an hour on two cores
    python tests/stress/run.py crash mutations     # some of them

mutations: some forty deliberate faults, each of which must turn a test red; crash: killed runs,
resumed; fuzz: random input; memory: a text of 500 MB. Each is also a script with flags of its own.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = ["mutations", "crash", "fuzz", "memory"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {SCRIPTS} (default: all)")
    names, summary = parser.parse_args().names or SCRIPTS, []
    if not set(names) <= set(SCRIPTS):
        parser.error(f"choose from {SCRIPTS}")
    for name in names:
        print(f"--- {name}", flush=True)
        start, line = time.monotonic(), ""
        command = [sys.executable, "-u", Path(__file__).with_name(f"{name}.py")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
        ended = "FAILED" if process.returncode else "passed"
        summary.append((ended, name, time.monotonic() - start, line.strip()))
    print("--- summary")
    for ended, name, seconds, line in summary:
        print(f"{ended}  {name:<9} {seconds:>5.0f} s  {line}")
    sys.exit(any(ended == "FAILED" for ended, *_ in summary))


if __name__ == "__main__":
    main()
