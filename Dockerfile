# docker build -t dsdctl .                             for GPUs (CUDA comes with torch's wheels)
# docker build -t dsdctl --build-arg DEVICE=cpu .      without CUDA, much smaller
# docker build -t dsdctl --build-arg EXTRAS=ray .      with optional dependencies of pyproject.toml
# docker run --rm --gpus all -v dsdctl-store:/store -v "$HOME/data:/data" dsdctl run specs/digits.yaml

# Has a C++ compiler, which the image itself can do without.
FROM python:3.11 AS wheel
WORKDIR /opt/dsdctl
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY dsdctl ./dsdctl
COPY recipes ./recipes
COPY specs ./specs
COPY templates ./templates
RUN pip wheel --no-deps --wheel-dir /wheels . \
    && ls dsdctl/ml/kernels/libkernels.so

FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 DSDCTL_STORE=/store
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/dsdctl

# What changes least and weighs most has layers of its own: torch, then all other dependencies.
ARG DEVICE=gpu
COPY constraints.txt ./
RUN case "$DEVICE" in \
      cpu) set -- --index-url https://download.pytorch.org/whl/cpu ;; \
      gpu) set -- ;; \
      *) echo "DEVICE: $DEVICE (allowed: cpu, gpu)" >&2; exit 2 ;; \
    esac \
    && pip install "$@" --constraint constraints.txt torch torchvision

ARG EXTRAS=
COPY pyproject.toml ./
RUN python -c "import sys, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      print(*p['dependencies'], *(r for e in sys.argv[1:] for r in p['optional-dependencies'][e]), \
      sep='\n')" $EXTRAS > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt

COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl

# Data sets of specs lie in ~/data by custom.
RUN useradd --create-home --uid 1000 dsdctl \
    && mkdir /store /data /experiments \
    && chown dsdctl /store /data /experiments \
    && ln -s /data /home/dsdctl/data
USER 1000
WORKDIR /experiments
COPY --chown=1000 specs ./specs
VOLUME /store /data

ENTRYPOINT ["dsdctl"]
CMD ["--help"]
