# One image for the workers, for beat and for the command line; docker-compose.yml shows each.

# Packages alone: a change of code finds this stage in the cache, and the layer that it gives unchanged.
FROM python:3.12-slim-trixie AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt ml-requirements.txt ./
RUN pip --python /opt/venv/bin/python install -r requirements.txt -r ml-requirements.txt
COPY bin/post_compile bin/
RUN PATH="/opt/venv/bin:$PATH" bin/post_compile

# The product as a wheel.
FROM packages AS product
RUN pip install setuptools==84.2.1
COPY pyproject.toml README.md LICENSE ./
COPY scoreline scoreline
COPY storage storage
COPY tasks tasks
COPY worker worker
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist .

FROM python:3.12-slim-trixie
# One thread a process: the workers are the parallelism. REMAP_SIGTERM has Celery put parts back into the queue when it
# is told to stop. Nobody but root may write to the packages, so Python need not try to.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    REMAP_SIGTERM=SIGQUIT
RUN useradd --create-home --no-log-init --uid 10001 scoreline
COPY --from=packages /opt/venv /opt/venv
COPY --from=product /build/dist /tmp/dist
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-index /tmp/dist/*.whl && rm -r /tmp/dist
# By number, so that Kubernetes can tell that it is not root. schedules.toml and .scoreline, where used, are looked for
# in the working directory.
USER 10001
WORKDIR /home/scoreline
# Exec form: Celery is the main process and gets the signal itself. It takes SOFT_SHUTDOWN_SECONDS (8) and a little more,
# so docker's 10 s before SIGKILL are too few: --stop-timeout 30.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "scoreline", "worker", "-P", "prefork", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO"]
# Half a second and 46 MB each time. Beat has another check, and a container that only submits none (--no-healthcheck).
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "exec scoreline workers celery@$HOSTNAME --timeout 15"]
