"""Installs, upgrades, tests, rolls back and uninstalls the chart on a real API server, with every option on and off.

    each option     install it, upgrade to the defaults, upgrade back to it, uninstall: nothing may be left
    everything      install the defaults, upgrade to everything, `helm test`, roll back, uninstall
    kinds           a Deployment becomes a StatefulSet and one again
    a release       from the chart of the newest tag, if there is one, to this one

What schemas cannot say is said here: fields that an upgrade may not change, admission (the namespace enforces the
restricted Pod Security Standard), hooks and their order, objects of others' kinds.

python -m tests.deploy.server [-k WORD]
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import helm_python

from deploy import CHART
from tests.deploy.chart import APP, OPTIONS, Object, Values, everything, merged, pods, render
from tests.deploy.server.cluster import NAMESPACE, Cluster, Kubelet, names

RELEASE = "shop"
TIMEOUT_S = 60


class Bench:
    """A release on a cluster, and what is compared after each act."""

    def __init__(self, cluster: Cluster, helm: helm_python.Config) -> None:
        self.cluster = cluster
        self.helm = helm

    def install(self, *values: Values, chart: Path = CHART) -> None:
        """Install, and look whether everything is there."""
        with Kubelet(self.cluster) as kubelet:
            self.helm.install(chart, RELEASE, merged(APP, *values), namespace=NAMESPACE, timeout=TIMEOUT_S)
        self._compare(values, kubelet, chart, upgrade=False)

    def upgrade(self, *values: Values, chart: Path = CHART) -> None:
        """Upgrade, and look whether what should be there is, and what should not be is not."""
        with Kubelet(self.cluster) as kubelet:
            self.helm.upgrade(
                chart, RELEASE, merged(APP, *values), namespace=NAMESPACE, timeout=TIMEOUT_S, reset_values=True
            )
        self._compare(values, kubelet, chart, upgrade=True)

    def test(self) -> None:
        """`helm test`."""
        with Kubelet(self.cluster) as kubelet:
            self.helm.test(RELEASE, timeout=TIMEOUT_S)
        assert [name for name, _ in kubelet.ran] == [f"{RELEASE}-onceflow-test"], kubelet.ran

    def uninstall(self) -> None:
        """Uninstall; nothing may be left."""
        self.helm.uninstall(RELEASE, timeout=TIMEOUT_S, ignore_not_found=True)
        left = {place: each for place, each in self.cluster.everything().items() if not _is_going(each)}
        assert not left, f"left behind: {', '.join(names(left))}"

    def _compare(self, values: tuple[Values, ...], kubelet: Kubelet, chart: Path, *, upgrade: bool) -> None:
        if chart != CHART:
            return
        objects = render(*values, upgrade=upgrade)
        hooks = [each for each in objects if "helm.sh/hook" in each["metadata"].get("annotations", {})]
        lasting = [each for each in objects if each not in hooks and _is_ours(each)]
        there = {place for place, each in self.cluster.everything().items() if not _is_going(each)}
        expected = {(each["kind"], each["metadata"]["name"]) for each in lasting}
        assert there == expected, f"missing {expected - there}, too much {there - expected}"
        now = "upgrade" if upgrade else "install"
        jobs = [
            each["metadata"]["name"]
            for each in hooks
            if each["kind"] == "Job" and now in each["metadata"]["annotations"]["helm.sh/hook"]
        ]
        assert [name for name, _ in kubelet.ran] == jobs, (kubelet.ran, jobs)
        for template in pods(lasting):
            if _has_strict_containers(template):
                self.cluster.admits(template)


def _is_ours(each: Object) -> bool:
    """In the release's namespace: a dashboard may be put elsewhere."""
    return each["metadata"].get("namespace", NAMESPACE) == NAMESPACE


def _is_going(each: Object) -> bool:
    """Deleted, and waiting for a garbage collector that is not there."""
    return "deletionTimestamp" in each["metadata"]


def _has_strict_containers(template: Object) -> bool:
    """A user's own containers are the user's to secure."""
    containers = template["spec"]["containers"] + template["spec"].get("initContainers", [])
    return all("securityContext" in each for each in containers)


# -- scenarios


def option(bench: Bench, values: Values) -> None:
    """One option, on, off and on again."""
    bench.install(values)
    bench.upgrade()
    bench.upgrade(values)
    bench.uninstall()


def all_at_once(bench: Bench) -> None:
    """From nothing to everything, tested, and back."""
    bench.install()
    bench.upgrade({"kind": "StatefulSet"}, everything())
    bench.test()
    bench.helm.rollback(RELEASE, timeout=TIMEOUT_S)
    bench.upgrade()
    bench.uninstall()


def kinds(bench: Bench) -> None:
    """A Deployment becomes a StatefulSet and one again."""
    bench.install()
    bench.upgrade({"kind": "StatefulSet"})
    bench.upgrade({"kind": "StatefulSet", "staticMembership": True})
    bench.upgrade()
    bench.uninstall()


def from_the_release_before(bench: Bench) -> str:
    """From the chart of the newest tag to this one."""
    ended = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v*"],
        cwd=CHART,
        capture_output=True,
        text=True,
        check=False,
    )
    tag = ended.stdout.strip()
    if not tag:
        return "not run: there is no release yet"
    packed = subprocess.run(
        ["git", "archive", tag, "deploy/helm"], cwd=CHART.parents[1], capture_output=True, check=True
    )
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        for values in ({}, everything()):
            bench.install(values, chart=Path(folder) / "deploy" / "helm")
            bench.upgrade(values)
            bench.uninstall()
    return f"from {tag}"


def main(arguments: list[str]) -> int:
    """Run the scenarios; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", metavar="WORD", help="only scenarios whose name has it")
    chosen = parser.parse_args(arguments).k
    scenarios: dict[str, Callable[[Bench], object]] = {
        "everything": all_at_once,
        "kinds": kinds,
        "from the release before": from_the_release_before,
        **{f"option {name}": lambda bench, values=values: option(bench, values) for name, values in OPTIONS.items()},
    }
    failed: list[str] = []
    with Cluster() as cluster, helm_python.Config(kubeconfig_content=cluster.kubeconfig(), namespace=NAMESPACE) as helm:
        print(f"kube-apiserver {cluster.version}, Helm {helm_python.helm_sdk_version()}")
        for name, scenario in scenarios.items():
            if chosen not in name:
                continue
            began = time.monotonic()
            try:
                said = scenario(Bench(cluster, helm))
                print(f"passed  {name}  {said or f'{time.monotonic() - began:.1f} s'}", flush=True)
            except Exception:  # noqa: BLE001  # the next scenario is run all the same
                failed.append(name)
                print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
                helm.uninstall(RELEASE, timeout=TIMEOUT_S, ignore_not_found=True)
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
