# For the CPU:   docker build -t hfkit .
# For a GPU:     docker build -t hfkit --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 \
#                  --build-arg TORCH_INDEX=https://pypi.org/simple --build-arg EXTRAS=gpu,tracking \
#                  --build-arg PACKAGES="gcc python3-dev" .
ARG BASE=ubuntu:24.04
FROM ${BASE}

ARG PACKAGES=""
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates python3 python3-venv ${PACKAGES} \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/hfkit

ENV PATH=/opt/hfkit/bin:${PATH} PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

# torch first and alone: its build is the index's, the CPU's by default.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt /tmp/hfkit/
RUN pip install --no-deps --constraint /tmp/hfkit/constraints.txt --index-url ${TORCH_INDEX} torch

ARG EXTRAS=export,tracking
COPY LICENSE README.md pyproject.toml /tmp/hfkit/
COPY configs /tmp/hfkit/configs
COPY data_cards /tmp/hfkit/data_cards
COPY hfkit /tmp/hfkit/hfkit
RUN pip install --constraint /tmp/hfkit/constraints.txt "/tmp/hfkit[${EXTRAS}]" \
    && rm -rf /tmp/hfkit

RUN useradd --create-home hfkit && install --directory --owner=hfkit /work
USER hfkit
WORKDIR /work
ENTRYPOINT ["hfkit"]
CMD ["--help"]
