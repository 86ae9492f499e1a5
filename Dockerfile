# Two images of one tree: `api` (REST and gRPC, no torch) and `worker` (torch, with the bundled mini model).
#
#   docker build --target api .
#   docker build --target worker .                       # torch from PyPI, which brings its CUDA runtime along
#   docker build --target worker --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .
#   docker build --target worker --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu --build-arg COMPILER= .
#
# For closed networks: --build-arg PYTHON_IMAGE=…, --build-context wheels=FOLDER (pip looks there too) and
# --secret id=ca_bundle,src=FILE (whom pip trusts). None has to be given, and none is kept in a layer.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM scratch AS wheels

FROM ${PYTHON_IMAGE} AS base
# The environment has no pip of its own: the base image's fills it.
ARG PIP_PYTHON=/opt/omgsr/bin/python
ARG PIP_FIND_LINKS=/wheels
ARG PIP_ROOT_USER_ACTION=ignore
ARG PIP_DISABLE_PIP_VERSION_CHECK=1
ARG CA_BUNDLE=/run/secrets/ca_bundle
ENV PATH=/opt/omgsr/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMGSR_STATE_DIR=/var/lib/omgsr \
    OMGSR_HOST=0.0.0.0 \
    OMGSR_ADMIN_HOST=0.0.0.0 \
    OMGSR_ADMIN_PORT=9000 \
    OMGSR_WORKER_PORT=9100
# The home folder is one that can be written to where the root is read-only.
RUN python -m venv --without-pip /opt/omgsr \
    && groupadd --gid 10001 omgsr \
    && useradd --uid 10001 --gid omgsr --no-create-home --home-dir /tmp --shell /usr/sbin/nologin omgsr \
    && install --directory --owner=omgsr --group=omgsr /var/lib/omgsr /models
WORKDIR /var/lib/omgsr
LABEL org.opencontainers.image.vendor="OMGSR Serve" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-3.0-only"
ENTRYPOINT ["omgsr"]

# The package as one wheel, and of the worker's lock the lines that torch asks for: their layers change with them alone.
FROM base AS package
COPY requirements-build.lock requirements-worker.lock /tree/
WORKDIR /tree
RUN --mount=type=secret,id=ca_bundle --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/pip \
    if [ -s "$CA_BUNDLE" ]; then export PIP_CERT="$CA_BUNDLE"; fi; \
    pip install --require-hashes --requirement requirements-build.lock \
    && mkdir /torch \
    && grep --only-matching --extended-regexp requirements-worker.lock \
        --regexp='^(filelock|fsspec|jinja2|markupsafe|mpmath|networkx|setuptools|sympy|typing-extensions)==[^ ]+' \
        > /torch/constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY bench bench
COPY model model
COPY service service
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /dist .

FROM base AS api
RUN --mount=type=secret,id=ca_bundle --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=requirements-api.lock,target=/requirements.lock \
    --mount=type=cache,target=/root/.cache/pip \
    if [ -s "$CA_BUNDLE" ]; then export PIP_CERT="$CA_BUNDLE"; fi; \
    pip install --require-hashes --requirement /requirements.lock
RUN --mount=type=bind,from=package,source=/dist,target=/dist pip install --no-cache-dir --no-deps --no-index /dist/*.whl
USER 10001:10001
EXPOSE 8000 50051 9000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-c", "\
from http.client import HTTPConnection as C; c = C('127.0.0.1', 9000, timeout=2); c.request('GET', '/livez'); \
raise SystemExit(c.getresponse().status != 200)"]
CMD ["api"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="omgsr-api" \
      org.opencontainers.image.description="OMGSR Serve: REST and gRPC in front of the queue" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM base AS worker
# What torch compiles for a GPU it builds with a C compiler; empty for a CPU, where OpenVINO needs none.
ARG COMPILER="gcc libc6-dev"
# hadolint ignore=DL3008,SC2086
RUN if [ -n "$COMPILER" ]; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends $COMPILER \
        && rm -rf /var/lib/apt/lists/*; \
    fi
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
RUN --mount=type=secret,id=ca_bundle --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,from=package,source=/torch,target=/torch \
    --mount=type=cache,target=/root/.cache/pip \
    if [ -s "$CA_BUNDLE" ]; then export PIP_CERT="$CA_BUNDLE"; fi; \
    pip install --constraint /torch/constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$TORCH"
RUN --mount=type=secret,id=ca_bundle --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=requirements-worker.lock,target=/requirements.lock \
    --mount=type=cache,target=/root/.cache/pip \
    if [ -s "$CA_BUNDLE" ]; then export PIP_CERT="$CA_BUNDLE"; fi; \
    pip install --require-hashes --requirement /requirements.lock
RUN --mount=type=bind,from=package,source=/dist,target=/dist pip install --no-cache-dir --no-deps --no-index /dist/*.whl
# Huge pages for the maps of large images: on a CPU 1.1 to 1.3 times as fast (docs/performance.md).
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1
USER 10001:10001
EXPOSE 9100
# Loading and compiling take minutes for full-size models: until then a failed check is no fault.
HEALTHCHECK --interval=5s --timeout=3s --start-period=15m --retries=3 CMD ["python", "-c", "\
from http.client import HTTPConnection as C; c = C('127.0.0.1', 9100, timeout=2); c.request('GET', '/readyz'); \
raise SystemExit(c.getresponse().status != 200)"]
CMD ["worker"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="omgsr-worker" \
      org.opencontainers.image.description="OMGSR Serve: takes jobs from the queue and makes the images" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
