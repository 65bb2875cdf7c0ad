# Two images. For research only, not for diagnosis.
#
#   docker build --target cpu --tag bonescreen:0.1.0-cpu .    base install with OpenVINO
#   docker build --target gpu --tag bonescreen:0.1.0-gpu .    also TensorFlow and CUDA 12, several GB

FROM python:3.12.12-slim-bookworm AS base
LABEL org.opencontainers.image.title="bonescreen" \
      org.opencontainers.image.description="Bulk screening of X-ray archives for bone fractures" \
      org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND CC-BY-4.0" \
      bonescreen.notice="For research only, not for diagnosis."
# A new volume for the home gets its owner from this folder.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/bonescreen --shell /usr/sbin/nologin bonescreen \
    && install --directory --owner bonescreen --group bonescreen --mode 0700 /var/lib/bonescreen
ENV PATH=/opt/bonescreen/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/bonescreen \
    BONESCREEN_HOME=/var/lib/bonescreen
USER 10001:10001
# `bonescreen worker` and `bonescreen feed` shut down cleanly on it.
STOPSIGNAL SIGTERM
ENTRYPOINT ["bonescreen"]
CMD ["--help"]

FROM python:3.12.12-slim-bookworm AS source
WORKDIR /source
RUN python -m venv /opt/bonescreen
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY LICENSES LICENSES
COPY xray xray
COPY db db
COPY producer producer
COPY worker worker
COPY training training
COPY bonescreen bonescreen

FROM source AS install-cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/bonescreen/bin/pip install --constraint constraints.txt ".[postgres]"

FROM source AS install-gpu
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/bonescreen/bin/pip install --constraint constraints.txt ".[postgres,tensorflow,cuda]"

FROM base AS gpu
COPY --from=install-gpu /opt/bonescreen /opt/bonescreen

FROM base AS cpu
COPY --from=install-cpu /opt/bonescreen /opt/bonescreen
