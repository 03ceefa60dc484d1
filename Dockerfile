# Two images of mil_toolkit: `docker build --target cpu .` and `docker build --target cuda .`. Neither holds weights.
FROM python:3.12-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
# A user whom the image does not know (docker run --user) has / as its home, where it may not write.
ENV XDG_CACHE_HOME=/data/.cache
RUN useradd --create-home --uid 1000 mil
WORKDIR /src
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY mil_toolkit mil_toolkit

FROM base AS cuda
RUN pip install . && rm -rf /src/build /src/*.egg-info
USER 1000
WORKDIR /data
ENTRYPOINT ["mil"]
CMD ["--help"]

FROM base AS cpu
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu torch torchvision . \
    && rm -rf /src/build /src/*.egg-info
USER 1000
WORKDIR /data
ENTRYPOINT ["mil"]
CMD ["--help"]
