# syntax=docker/dockerfile:1
#
# One image for every command: `run`, `migrate`, `dead-letters`, … A user's image adds an app to it, see
# docs/guides/install.md.
#
#   docker build -t onceflow:0.1.0 .
#   docker build -t onceflow-example --target example .
#   docker build -t onceflow:0.1.0 --build-arg EXTRAS="web otel encryption avro" .
#
# It runs as nobody in particular (10001), and needs nothing of its file system but /tmp.

# The same in both stages: the environment made in the first refers to its interpreter.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build

# In a virtual environment, from the lock and by hash; compiled now, because a read-only file system keeps no .pyc files.
ENV UV_PROJECT_ENVIRONMENT=/opt/onceflow \
    UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy

# What the chart's options and the commands may ask for: HTTP, traces, sealed payloads. Formats of a registry (avro, jsonschema,
# protobuf) and sqlalchemy are an app's business.
ARG EXTRAS="web otel encryption"

WORKDIR /src

RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9

# The libraries first: they change seldom, and this layer is most of the image.
COPY pyproject.toml uv.lock ./
RUN for extra in $EXTRAS; do set -- "$@" --extra "$extra"; done; \
    uv sync --frozen --no-cache --no-dev --no-install-project "$@"

COPY README.md LICENSE ./
COPY sql sql
COPY engine engine
COPY consumers consumers
COPY processor processor
COPY onceflow.py ./
RUN for extra in $EXTRAS; do set -- "$@" --extra "$extra"; done; \
    uv sync --frozen --no-cache --no-dev --no-editable "$@"


FROM python:${PYTHON}-slim-bookworm AS runtime

LABEL org.opencontainers.image.title="onceflow" \
      org.opencontainers.image.description="Exactly-once processing of Kafka records with durable workflows on plain Postgres" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV PATH=/opt/onceflow/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONFAULTHANDLER=1

# A number, so that Kubernetes can see that it is not root (runAsNonRoot) without knowing the image's users.
RUN groupadd --gid 10001 onceflow && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp onceflow

COPY --from=build /opt/onceflow /opt/onceflow

# Apps are found from here, and so is processor.yaml.
WORKDIR /app

USER 10001:10001
EXPOSE 9464
ENTRYPOINT ["processor"]
CMD ["--help"]


# What docker-compose.yml runs: the image with the examples in it, as a user's image has an app.
FROM runtime AS example

COPY examples examples


# `docker build .` makes the last stage: the plain image.
FROM runtime
