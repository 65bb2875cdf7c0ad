# Two images. For research only, not for diagnosis.
#
#   docker build --target cpu --tag bonescreen:0.1.0-cpu .    base install with OpenVINO
#   docker build --target gpu --tag bonescreen:0.1.0-gpu .    also TensorFlow and CUDA 12, several GB
#
# The dependencies are layers of their own: after an edit of the source only the source is installed again.

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

# pip installs a project's dependencies only together with the project, so they are copied out of pyproject.toml.
FROM python:3.12.12-slim-bookworm AS requirements
WORKDIR /requirements
COPY pyproject.toml ./
RUN python -c 'import tomllib; \
        pyproject = tomllib.load(open("pyproject.toml", "rb")); \
        extras = pyproject["project"]["optional-dependencies"]; \
        print(*pyproject["build-system"]["requires"], sep="\n", file=open("build.txt", "w")); \
        print(*pyproject["project"]["dependencies"], *extras["postgres"], sep="\n", file=open("cpu.txt", "w")); \
        print(*extras["tensorflow"], *extras["cuda"], sep="\n", file=open("gpu.txt", "w"))'

FROM python:3.12.12-slim-bookworm AS install-cpu
WORKDIR /requirements
RUN python -m venv /opt/bonescreen
COPY constraints.txt ./
COPY --from=requirements /requirements/cpu.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/bonescreen/bin/pip install --constraint constraints.txt --requirement cpu.txt

FROM install-cpu AS install-gpu
COPY --from=requirements /requirements/gpu.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/bonescreen/bin/pip install --constraint constraints.txt --requirement gpu.txt

FROM python:3.12.12-slim-bookworm AS install-source
WORKDIR /source
RUN python -m venv /opt/bonescreen
COPY --from=requirements /requirements/build.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/bonescreen/bin/pip install --requirement build.txt
COPY LICENSE README.md pyproject.toml ./
COPY LICENSES LICENSES
COPY xray xray
COPY db db
COPY producer producer
COPY worker worker
COPY training training
COPY bonescreen bonescreen
RUN /opt/bonescreen/bin/pip install --no-deps --no-build-isolation --root /installed .

FROM base AS gpu
COPY --from=install-gpu /opt/bonescreen /opt/bonescreen
COPY --from=install-source /installed/opt/bonescreen /opt/bonescreen

FROM base AS cpu
COPY --from=install-cpu /opt/bonescreen /opt/bonescreen
COPY --from=install-source /installed/opt/bonescreen /opt/bonescreen
