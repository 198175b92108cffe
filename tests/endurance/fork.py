"""Children forked while other threads use, build and resize the pool: none may hang or compute other bytes.

``python tests/endurance/fork.py --count 1000``: what came of it, one line; exit code 1 if a child hung or was
wrong.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter

import numpy as np
import record

import dsv3_numerics as d3

PATIENCE = 120  # seconds after which a child counts as hung; a good one takes milliseconds


def forks(count: int) -> Counter[str]:
    """Fork so many children; what became of them: well, hung, or wrong."""
    warnings.simplefilter("ignore")  # newer CPython warns of forking with threads, which is the point
    x = np.random.default_rng(0).standard_normal(1 << 19, dtype=np.float32)
    wanted = d3.encode(x, "float8_e4m3fn").tobytes()
    over = threading.Event()

    def hammer(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not over.is_set():
            d3.set_num_threads(int(rng.integers(2, 5)))  # another size: the pool is built anew
            d3.encode(x, "float8_e4m3fn")

    before = d3.get_num_threads()
    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    found: Counter[str] = Counter()
    try:
        for _ in range(count):
            child = os.fork()
            if child == 0:
                signal.alarm(PATIENCE)  # by default it ends the process
                good = d3.encode(x, "float8_e4m3fn").tobytes() == wanted
                os._exit(0 if good else 1)
            status = os.waitpid(child, 0)[1]
            hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            found["hung" if hung else "well" if status == 0 else "wrong"] += 1
    finally:
        over.set()
        for thread in threads:
            thread.join()
        d3.set_num_threads(before)
    return found


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--write", action="store_true", help=f"record the outcome in {record.RESULT.name}")
    options = parser.parse_args()
    count, start = options.count, time.monotonic()
    found = forks(count)
    told = ", ".join(f"{found[how]} {how}" for how in ("well", "hung", "wrong"))
    print(f"{count} forks in {time.monotonic() - start:.0f} s: {told}")
    if options.write:
        record.write("make fork", f"{count} forks among 3 threads that use and resize the pool", told)
    sys.exit(found["well"] != count)


if __name__ == "__main__":
    main()
