"""What operators deploy: the chart (helm/), what docker-compose.yml mounts (compose/), and what makes their derived files.

python -m deploy          writes helm/values.schema.json, helm/README.md and helm/files/dashboards/*.json
python -m deploy check    says which are not what they should be, and lints chart and Dockerfile; exit code 1 if any

For a checkout; no part of the package that users install.
"""

from pathlib import Path

CHART = Path(__file__).parent / "helm"
"""The chart."""

__all__ = ["CHART"]
