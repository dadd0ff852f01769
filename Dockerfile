# One image for the worker and all agents; the command says which. Its packages are those of the lock files, hash by hash.
#   docker build --tag modelwatch:0.1.0 .                                CPU
#   docker build --tag modelwatch:0.1.0-gpu --build-arg DEVICE=gpu .     with the CUDA libraries that TensorFlow names
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG DEVICE=cpu
ENV VIRTUAL_ENV=/opt/venv UV_NO_CACHE=1
WORKDIR /app
COPY requirements.lock requirements-image.lock pyproject.toml README.md ./
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# uv itself, by its line of the lock file.
RUN grep -A40 '^uv==' requirements.lock | awk 'NR > 1 && /^[a-z]/ { exit } { print }' > /tmp/uv.lock \
    && pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement /tmp/uv.lock
# What the services need, without development tools and embedded servers: names from pyproject.toml, versions and hashes
# from the lock files. The CPU image takes TensorFlow's build without CUDA kernels, which is 0.9 GB smaller.
RUN case "$DEVICE" in \
      cpu) extra=(); swap='s/^tensorflow$/tensorflow-cpu/' ;; \
      gpu) extra=(--extra gpu); swap='' ;; \
      *) echo "DEVICE is cpu or gpu, not $DEVICE" >&2; exit 1 ;; \
    esac \
    && uv pip compile --quiet --no-header --no-annotate --constraints requirements.lock "${extra[@]}" pyproject.toml \
       | sed -e 's/[=; ].*//' -e "$swap" > /tmp/names \
    && awk -F '==' 'NR == FNR { wanted[$1]; next } /^[a-z]/ { keep = ($1 in wanted) } keep' \
       /tmp/names requirements.lock requirements-image.lock > /tmp/image.lock \
    && python -m venv --without-pip "$VIRTUAL_ENV" \
    && uv pip sync --only-binary :all: --require-hashes --compile-bytecode /tmp/image.lock
COPY schemas schemas
COPY runtime runtime
COPY inference inference
COPY agents agents
COPY training training
COPY cli cli
COPY elasticsearch elasticsearch
COPY models models
RUN uv pip install --no-deps --build-constraints requirements.lock --editable . \
    && python -m compileall -q schemas runtime inference agents training cli

FROM ${PYTHON_IMAGE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin modelwatch \
    && install -d -o modelwatch -g modelwatch /var/lib/modelwatch /var/lib/modelwatch/state /var/lib/modelwatch/cache
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
# The root file system may be read-only: only /tmp and the folders under /var/lib/modelwatch are written to.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TF_USE_LEGACY_KERAS=1 \
    TF_CPP_MIN_LOG_LEVEL=3 \
    TF_ENABLE_ONEDNN_OPTS=1 \
    MODELWATCH_HOST=0.0.0.0 \
    MODELWATCH_STATE_FOLDER=/var/lib/modelwatch/state \
    MODELWATCH_CACHE=/var/lib/modelwatch/cache
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-m", "runtime.probe"]
ENTRYPOINT ["tini", "--"]
CMD ["modelwatch", "--help"]
