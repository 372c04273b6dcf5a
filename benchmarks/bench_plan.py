"""What `plan --plan.probe` says beside what the run that follows takes, in one go on this machine.

    python benchmarks/bench_plan.py --out OUT ego4d --data DIR [options of curate]

OUT must not exist. All options but `--out` and `--probe` go to both commands. The run's core-hours
are the seconds that its markers hold of the workers; steps over tables are not in them.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "s": 1.0, "min": 60.0, "h": 3600.0}


def handloom(*args: str) -> str:
    """Standard output of a command."""
    command = [sys.executable, "-m", "handloom", *args]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def amount(pattern: str, told: str) -> float:
    """The first number that a pattern finds, with its unit if it has one."""
    found = re.search(pattern, told)
    if found is None:
        raise SystemExit(f"the plan does not say {pattern}:\n{told}")
    number, *unit = found.groups()
    return float(number.replace(",", "")) * (UNITS[unit[0]] if unit else 1.0)


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def core_hours(out: Path) -> float:
    """Hours of workers by the markers of a run's stages."""
    markers = [json.loads(path.read_text()) for path in out.glob("tables/*/_stage.json")]
    return sum(marker.get("spent", {}).get("seconds", 0.0) for marker in markers) / 3600


def main() -> None:
    """Plan, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--probe", default="200")
    own, args = parser.parse_known_args()
    if own.out.exists():
        raise SystemExit(f"{own.out} exists; the run must begin from nothing.")
    told = handloom("plan", *args, "--out", str(own.out), "--plan.probe", own.probe)
    print(told)
    started = time.monotonic()
    print(handloom("curate", *args, "--out", str(own.out)))
    wall_s = time.monotonic() - started
    number = r"([\d.,]+)"
    rows = {
        "core-hours": (amount(rf"in all {number} core-hours", told), core_hours(own.out)),
        "seconds": (amount(rf"%: {number} (s|min|h) on", told), wall_s),
        "bytes of tables": (
            amount(rf"disk {number} (\w+) of tables", told),
            size(own.out / "tables"),
        ),
        "bytes of shards": (
            amount(rf"and {number} (\w+) of shards", told),
            size(own.out / "shards"),
        ),
    }
    for name, (planned, found) in rows.items():
        print(f"{name}: planned {planned:,.4g}, found {found:,.4g}: {planned / found - 1:+.0%}")


if __name__ == "__main__":
    main()
