# Two images: `cpu`, and `cuda` for NVIDIA GPUs.
#
#   docker build --target cpu --tag segflow:cpu .
#   docker run --rm --volume "$PWD:/work" --user "$(id -u):$(id -g)" segflow:cpu demo
#
# Trainings with data workers need more shared memory than Docker gives: --shm-size=4g. GPUs: --gpus all.
# docs/guides/docker.md says more.

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY hydra_plugins hydra_plugins
COPY conf conf
COPY segflow segflow
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheel .

FROM python:3.12-slim-bookworm AS base
# Any user may run it, also one without a name: libraries write their caches into a folder that all may write to.
RUN useradd --create-home --uid 1000 segflow \
    && chmod 1777 /home/segflow \
    && mkdir /work \
    && chown segflow /work
ENV HOME=/home/segflow \
    LOGNAME=segflow \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1
WORKDIR /work
ENTRYPOINT ["segflow"]
CMD ["--help"]

FROM base AS cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --index-url https://download.pytorch.org/whl/cpu "torch>=2.6,!=2.9.*,<2.15"
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install "$(echo /wheel/*.whl)[train,dicom,zarr]"
USER segflow

FROM base AS cuda
# torch.compile needs a C compiler. The libraries of CUDA come with torch, the driver from the host.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install "torch>=2.6,!=2.9.*,<2.15"
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install "$(echo /wheel/*.whl)[train,dicom,zarr]"
USER segflow
