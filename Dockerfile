# One image for the operator and the reporter. `make image` builds it with docker, podman or buildah.
#
# BASE has Python 3.11 or newer with pip, and a shell. RUNTIME has the same Python; it needs no shell and no pip. A release
# names both by digest: --build-arg BASE=docker.io/library/python:3.13-slim-trixie@sha256:…
ARG BASE=docker.io/library/python:3.13-slim-trixie
ARG RUNTIME=${BASE}

FROM ${BASE} AS build
WORKDIR /build
COPY hack/image/*.lock locks/
# The secret is the certificates of a registry that the base does not know; there need be none.
RUN --mount=type=secret,id=ca,target=/run/ca.crt --mount=type=cache,target=/root/.cache/pip \
    if [ -s /run/ca.crt ]; then export PIP_CERT=/run/ca.crt; fi; \
    set -e; export PIP_ROOT_USER_ACTION=ignore; \
    install="python3 -m pip install --quiet --require-hashes --no-deps --only-binary=:all: --no-compile"; \
    $install --target=/opt/leasehold --requirement=locks/run.lock; \
    $install --target=tools --requirement=locks/build.lock; \
    rm -rf /opt/leasehold/bin
COPY pyproject.toml README.md LICENSE ./
COPY crds crds
COPY hack hack
COPY operator operator
RUN export PIP_ROOT_USER_ACTION=ignore \
    && PYTHONPATH=tools python3 -m pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir=dist . \
    && python3 -m pip install --quiet --no-index --no-deps --no-compile --target=/opt/leasehold dist/*.whl \
    && rm -rf /opt/leasehold/bin \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/leasehold

FROM ${RUNTIME}
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="leasehold" \
      org.opencontainers.image.description="Lends out a Kubernetes cluster's capacity for a time: operator and reporter" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/leasehold /opt/leasehold
ENV PYTHONPATH=/opt/leasehold PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# Fails when the two bases have different Pythons: what was compiled for one does not load in the other.
RUN ["python3", "-P", "-m", "leasehold.cli.main", "operator", "--version"]
USER 65532:65532
ENTRYPOINT ["python3", "-P", "-m", "leasehold.cli.main"]
