# docker build -t dsdctl .
# docker run --rm -v "$PWD/specs:/experiments/specs:ro" -v dsdctl-store:/store dsdctl run specs/digits.yaml
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 DSDCTL_STORE=/store
WORKDIR /opt/dsdctl

# The large dependencies first: they change least and fill a layer of their own.
COPY constraints.txt ./
RUN pip install --constraint constraints.txt torch torchvision

COPY pyproject.toml README.md LICENSE ./
COPY dsdctl ./dsdctl
COPY recipes ./recipes
RUN pip install --constraint constraints.txt .

RUN useradd --create-home dsdctl && mkdir /store /experiments && chown dsdctl /store /experiments
USER dsdctl
WORKDIR /experiments
COPY --chown=dsdctl specs ./specs
VOLUME /store

ENTRYPOINT ["dsdctl"]
CMD ["--help"]
