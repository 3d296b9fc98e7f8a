# One image for every service of compose.yaml. Build: docker compose build
FROM python:3.11-slim-bookworm AS build
# libgomp1: LightGBM and XGBoost.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential libgomp1 \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /isobar
RUN python -m venv /opt/isobar
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY market market
COPY features features
COPY models models
COPY signals signals
COPY execution execution
COPY backtest backtest
COPY reports reports
COPY pipelines pipelines
COPY isobar isobar
RUN /opt/isobar/bin/pip install -c constraints.txt -e '.[postgres,telemetry]'
# Compiled here, so that no service compiles when it starts.
ENV NUMBA_CACHE_DIR=/opt/isobar/compiled
RUN /opt/isobar/bin/python -m features.warm

FROM python:3.11-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data --no-create-home isobar \
    && install -d -o isobar -g isobar /data /data/dagster
COPY --from=build /opt/isobar /opt/isobar
COPY --from=build /isobar /isobar
COPY workspace.yaml dagster.yaml /isobar/
COPY containers /isobar/containers
ENV PATH=/opt/isobar/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/opt/isobar/compiled \
    ISOBAR_HOME=/data \
    ISOBAR_LOGS__STDOUT=true \
    DAGSTER_HOME=/data/dagster
WORKDIR /isobar
USER 10001
CMD ["isobar", "--help"]
