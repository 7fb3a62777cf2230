"""The chart on a real Kubernetes API server: `make chart-server`. No part of `make test`: the first build takes minutes."""
