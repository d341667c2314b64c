# One image for workers, beat, the pages and the command line; docker-compose.yml shows how to run each of them.

# The packages have their own stage and layer, which stay in the cache when only the code changes.
FROM python:3.12-slim-trixie AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt ml-requirements.txt web-requirements.txt ./
RUN pip --python /opt/venv/bin/python install -r requirements.txt -r ml-requirements.txt -r web-requirements.txt
COPY bin/post_compile bin/
RUN PATH="/opt/venv/bin:$PATH" bin/post_compile

# Build the product as a wheel. This image has the C compiler that the extensions need.
FROM python:3.12-trixie AS product
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN pip install setuptools==84.2.1 Cython==3.3.1
COPY pyproject.toml setup.py README.md LICENSE ./
COPY scoreline scoreline
COPY storage storage
COPY tasks tasks
COPY worker worker
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist .

FROM python:3.12-slim-trixie
# Each process computes with one thread, because the processes of the worker already use all cores. REMAP_SIGTERM makes
# Celery return parts to the queue when the container stops. Only root may write to the packages, so Python must not try.
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
# A number, so that Kubernetes can verify that the user is not root. If schedules.toml or .scoreline are used, they are
# looked for in the working directory.
USER 10001
WORKDIR /home/scoreline
# In exec form Celery is the main process and receives the signal itself. It needs SOFT_SHUTDOWN_SECONDS (8) and a little
# more to stop, so Docker's default of 10 s before SIGKILL is too short: use --stop-timeout 30.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "scoreline", "worker", "-P", "prefork", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO"]
# This check takes half a second and 46 MB. Beat needs another check, and a container that only submits jobs needs none
# (--no-healthcheck).
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "exec scoreline workers celery@$HOSTNAME --timeout 15"]
