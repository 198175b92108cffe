"""Two hosts and one that schedules, each with its own network and name: the results of one process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsv3_numerics.model import Config, random_checkpoint

pytest.importorskip("distributed", reason='pip install "dsv3_numerics[cluster]"')

# Networks and names of their own; the whole vanishes with the process that unshares them.
ALONE = ["unshare", "--map-root-user", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
HOSTS = """
set -eu
mount -t tmpfs none /run
mount -t proc none /proc
ip link set lo up
ip link add wires type bridge
ip link set wires up
number=0
for host in head one two; do
    number=$((number + 1))
    ip netns add $host
    ip link add to-$host type veth peer name eth0 netns $host
    ip link set to-$host master wires up
    ip -n $host address add 10.77.0.$number/24 dev eth0
    ip -n $host link set eth0 up
    ip -n $host link set lo up
done
at() {
    host=$1
    shift
    ip netns exec $host unshare --uts sh -c 'hostname $0; exec "$@"' $host "$@"
}
"""
RUN = """
python=$1 folder=$2
dask() { at $1 $python -m distributed.cli.dask_$2 --scheduler-file $folder/scheduler.json --no-dashboard $3; }
dask head scheduler "--host 10.77.0.1 --port 8786" 2> $folder/head.log &
while [ ! -e $folder/scheduler.json ]; do
    kill -0 $!
    sleep 0.1
done
for host in one two; do
    dask $host worker "--nthreads 1 --no-nanny --local-directory $folder/$host" 2> $folder/$host.log &
done
while [ "$(at head $python $folder/count.py)" != 2 ]; do sleep 0.1; done
address="--dask tcp://10.77.0.1:8786"
at head $python -m dsv3_numerics convert $folder/model $folder/out --to bf16 $address
at head $python -m dsv3_numerics study $folder/w.npz -s mxfp4 -s logfmt8:1x128 --out $folder/study $address
at head $python -m dsv3_numerics make $folder/made $address
"""
COUNT = """
from distributed import Client
with Client("tcp://10.77.0.1:8786", timeout=300) as client:
    print(len({worker["host"] for worker in client.scheduler_info()["workers"].values()}))
"""
MODULE = [sys.executable, "-m", "dsv3_numerics"]


def _has_hosts() -> bool:
    if not all(map(shutil.which, ("unshare", "ip"))):
        return False
    return subprocess.run([*ALONE, "sh", "-c", HOSTS + "at two true"], capture_output=True).returncode == 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.skipif(not _has_hosts(), reason="no network namespaces here (unshare --net, ip netns, bridges)")
def test_two_hosts_make_the_files_and_figures_of_one_process(tmp_path: Path) -> None:
    random_checkpoint(tmp_path / "model", Config.preset("tiny"), shard_bytes=200_000)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "w.npz", **{f"t{i:02}": rng.normal(size=(8, 64)) for i in range(12)})
    (tmp_path / "count.py").write_text(COUNT)
    done = subprocess.run(
        [*ALONE, "sh", "-c", HOSTS + RUN, "sh", sys.executable, str(tmp_path)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    logs = "".join(path.read_text()[-2000:] for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    alone = tmp_path / "alone"
    for words in (
        ["convert", tmp_path / "model", alone / "out", "--to", "bf16"],
        ["study", tmp_path / "w.npz", "-s", "mxfp4", "-s", "logfmt8:1x128", "--out", alone / "study"],
        ["make", alone / "made"],
    ):
        subprocess.run([*MODULE, *map(str, words)], check=True, capture_output=True)
    for name in ("out", "made"):
        assert contents(tmp_path / name) == contents(alone / name)
    table = "results.csv"
    assert (tmp_path / "study" / table).read_bytes() == (alone / "study" / table).read_bytes()
