"""Builds the API server and its etcd from Go modules, once, and finds the definitions of others' kinds in theirs.

Everything comes from Go's module proxy, by version and hash (go.mod, go.sum); nothing is copied into this repository.
"""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "onceflow"
DEFINITIONS = {
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "github.com/kedacore/keda/v2@v2.21.0": (
        "config/crd/bases/keda.sh_scaledobjects.yaml",
        "config/crd/bases/keda.sh_triggerauthentications.yaml",
    ),
}
"""Modules, and files in them."""


def server() -> Path:
    """The program. Built where it is not there yet: some minutes, and 125 MB."""
    sources = [(SOURCE / name).read_bytes() for name in ("go.mod", "go.sum", "main.go")]
    program = CACHE / f"kubernetes-{hashlib.sha256(b''.join(sources)).hexdigest()[:12]}" / "server"
    if not program.exists():
        print(f"building {program}: takes minutes, once")
        program.parent.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_suffix(".part")
        # The server says which version it is; the chart asks, and Helm.
        (major, minor, patch) = re.findall(r"\sk8s.io/kubernetes v(\d+)\.(\d+)\.(\d+)\s", sources[0].decode())[0]
        said = {"gitVersion": f"v{major}.{minor}.{patch}", "gitMajor": major, "gitMinor": minor}
        flags = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in said.items())
        command = ["go", "build", "-mod=readonly", "-trimpath", f"-ldflags=-s -w {flags}", "-o", unfinished, "."]
        subprocess.run(command, cwd=SOURCE, check=True)
        unfinished.rename(program)
    return program


def definitions() -> list[Path]:
    """Files with the CustomResourceDefinitions of the Prometheus operator and of KEDA."""
    found: list[Path] = []
    for module, names in DEFINITIONS.items():
        ended = subprocess.run(["go", "mod", "download", "-json", module], stdout=subprocess.PIPE, check=True)
        folder = Path(json.loads(ended.stdout)["Dir"])
        found += [folder / name for name in names]
    return found
