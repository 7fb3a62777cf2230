"""An API server with nothing behind it, and a stand-in for the kubelet that says that Jobs and test pods are done."""

import json
import os
import secrets
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self, cast

import yaml

from tests.deploy.server import build

Object = dict[str, Any]
START_S = 60
NAMESPACE = "shop"
KINDS: dict[str, str] = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Pod": "/api/v1/namespaces/{}/pods",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    "PodMonitor": "/apis/monitoring.coreos.com/v1/namespaces/{}/podmonitors",
    "ServiceMonitor": "/apis/monitoring.coreos.com/v1/namespaces/{}/servicemonitors",
    "PrometheusRule": "/apis/monitoring.coreos.com/v1/namespaces/{}/prometheusrules",
    "ScaledObject": "/apis/keda.sh/v1alpha1/namespaces/{}/scaledobjects",
    "TriggerAuthentication": "/apis/keda.sh/v1alpha1/namespaces/{}/triggerauthentications",
}
"""Where each kind is that the chart makes."""
OTHERS = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default"), ("ServiceAccount", "shop")}
"""What is there before the chart: Kubernetes' own, and what an option of the chart refers to."""


class RefusedError(Exception):
    """The API server refused a request; the message is its own."""

    def __init__(self, request: str, code: int, message: str) -> None:
        super().__init__(f"{request}: {code}: {message}")
        self.code = code


class Cluster:
    """etcd and kube-apiserver, from entering to leaving; 127.0.0.1 only, and its data in a temporary folder."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._token = secrets.token_hex(16)
        self._port = _free_port()

    def __enter__(self) -> Self:
        program = build.server()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="onceflow-cluster-")))
        (folder / "tokens.csv").write_text(f"{self._token},admin,1,system:masters\n")
        subprocess.run(["openssl", "genrsa", "-out", folder / "sa.key", "2048"], check=True, stderr=subprocess.DEVNULL)
        etcd, peers = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
        self._start(
            [program, "etcd", f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
             f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}"],
            folder / "etcd.log",
        )  # fmt: skip
        self._start(
            [program, "kube-apiserver", f"--etcd-servers={etcd}", f"--secure-port={self._port}",
             "--bind-address=127.0.0.1", f"--cert-dir={folder / 'certificates'}", f"--token-auth-file={folder / 'tokens.csv'}",
             "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
             "--service-account-issuer=https://kubernetes.default", f"--service-account-key-file={folder / 'sa.key'}",
             f"--service-account-signing-key-file={folder / 'sa.key'}",
             # It would wait for tokens that a controller makes.
             "--disable-admission-plugins=ServiceAccount"],
            folder / "kube-apiserver.log",
        )  # fmt: skip
        self._await_ready(folder)
        self.version: str = self.request("GET", "/version")["gitVersion"]
        for file in build.definitions():
            self.request(
                "POST",
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                yaml.safe_load(file.read_text(encoding="utf-8")),
            )
        self._await_kinds()
        # As a namespace of people who take security seriously.
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})
        # What options of the chart refer to.
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": "grafana"}})
        account = {"metadata": {"name": "shop"}}
        self.request("POST", KINDS["ServiceAccount"].format(NAMESPACE), account)
        priority = {"metadata": {"name": "high"}, "value": 1000}
        self.request("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", priority)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def kubeconfig(self) -> str:
        """For Helm."""
        cluster = {"server": f"https://127.0.0.1:{self._port}", "insecure-skip-tls-verify": True}
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [{"name": "here", "cluster": cluster}],
                "users": [{"name": "admin", "user": {"token": self._token}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin", "namespace": NAMESPACE}}],
            }
        )

    def request(self, method: str, path: str, body: Object | None = None, content: str = "application/json") -> Object:
        """Ask the API server. Raises `RefusedError` with what it says."""
        request = urllib.request.Request(
            f"https://127.0.0.1:{self._port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": content},
        )
        # Its certificate is of its own making, for this run.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:  # noqa: S310
                return cast("Object", json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            raise RefusedError(f"{method} {path}", error.code, error.read().decode()) from None

    def all(self, kind: str) -> list[Object]:
        """Every object of a kind, but those that were there before."""
        found = self.request("GET", KINDS[kind].format(NAMESPACE))["items"]
        return [each for each in found if (kind, each["metadata"]["name"]) not in OTHERS]

    def everything(self) -> dict[tuple[str, str], Object]:
        """Every object that the chart could have made, by kind and name."""
        return {(kind, each["metadata"]["name"]): each for kind in KINDS for each in self.all(kind)}

    def admits(self, template: Object) -> None:
        """Whether a pod made from a template would be let in. Raises `RefusedError` if not."""
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "would-be", "labels": template["metadata"]["labels"]},
            "spec": template["spec"],
        }
        self.request("POST", KINDS["Pod"].format(NAMESPACE) + "?dryRun=All&fieldValidation=Strict", pod)

    def _start(self, command: list[str | Path], log: Path) -> None:
        output = self._stack.enter_context(log.open("wb"))
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "ETCD_UNSUPPORTED_ARCH": ""}
        )

        def end() -> None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        self._stack.callback(end)

    def _await_ready(self, folder: Path) -> None:
        def ready() -> bool:
            try:
                return bool(self.request("GET", "/apis")["groups"])
            except (urllib.error.URLError, RefusedError, ConnectionError):
                return False

        try:
            _until(ready, "the API server answers")
        except TimeoutError:
            for log in folder.glob("*.log"):
                print(log.name, log.read_text(errors="replace")[-3000:])
            raise

    def _await_kinds(self) -> None:
        def known() -> bool:
            try:
                return all(self.request("GET", path.format("default")) for path in KINDS.values())
            except RefusedError:
                return False

        _until(known, "the definitions are established")


class Kubelet:
    """Says that each Job and each test pod has succeeded, as soon as what it needs is there; and notes what it saw.

    A Job whose account or settings are missing is not started, as by a real kubelet, and Helm's waiting ends in an error.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet")
        self.ran: list[tuple[str, list[str]]] = []
        """Names of Jobs and pods, with the arguments of their first container, in order."""
        self.errors: list[RefusedError] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.errors and exc[0] is None:
            raise self.errors[0]

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            try:
                for kind in ("Job", "Pod"):
                    for each in self._cluster.all(kind):
                        self._work(kind, each)
            except RefusedError as error:
                # Helm may delete what is being looked at.
                if error.code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                    self.errors.append(error)

    def _work(self, kind: str, each: Object) -> None:
        status = each.get("status", {})
        if status.get("conditions") or status.get("phase") == "Succeeded":
            return
        spec = each["spec"]["template"]["spec"] if kind == "Job" else each["spec"]
        if not self._has_what_it_needs(spec):
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if kind == "Job":
            done = [{"type": name, "status": "True", "reason": "Done", "message": "", "lastProbeTime": now, "lastTransitionTime": now}
                    for name in ("SuccessCriteriaMet", "Complete")]  # fmt: skip
            new: Object = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": done}
        else:
            new = {"phase": "Succeeded"}
        name = each["metadata"]["name"]
        path = f"{KINDS[kind].format(NAMESPACE)}/{name}/status"
        self._cluster.request("PATCH", path, {"status": new}, "application/merge-patch+json")
        self.ran.append((name, spec["containers"][0]["args"]))

    def _has_what_it_needs(self, spec: Object) -> bool:
        accounts = {each["metadata"]["name"] for each in self._cluster.all("ServiceAccount")} | {"default", "shop"}
        maps = {each["metadata"]["name"] for each in self._cluster.all("ConfigMap")}
        needed = {each["configMap"]["name"] for each in spec["volumes"] if "configMap" in each}
        return spec["serviceAccountName"] in accounts and needed <= maps


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _until(met: Any, what: str) -> None:
    deadline = time.monotonic() + START_S
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {START_S} s")
        time.sleep(0.1)


def names(objects: dict[tuple[str, str], Object]) -> Iterator[str]:
    """For people."""
    return (f"{kind}/{name}" for kind, name in objects)
