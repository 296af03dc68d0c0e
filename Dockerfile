# Orthanc with the scripts in /etc/orthanc/scripts, and the Python packages that they use.
#   docker build -t orthanc-scripts .
#   docker build -t orthanc-scripts --build-arg BASE=orthancteam/orthanc:26.8.1 --build-arg RUN_AS=orthanc .
# Which script runs is for your configuration to say: "PythonScript": "/etc/orthanc/scripts/auto_forward_modality.py".
ARG BASE=jodogne/orthanc-python:1.13.0
# hadolint ignore=DL3006
FROM ${BASE}

# Both bases are Debian or nearly so. The first comes without pip, and its Python belongs to the system: so the packages get a
# folder of their own. Any pip will do, hence no version; what pip installs has one.
COPY requirements.txt /tmp/scripts.txt
COPY dicom_events/requirements.txt /tmp/events.txt
# hadolint ignore=DL3008
RUN if ! python3 -m pip --version >/dev/null 2>&1; then \
      apt-get update && apt-get install -y --no-install-recommends python3 python3-pip; \
    fi \
 && python3 -m pip install --no-cache-dir --target /opt/orthanc-scripts -r /tmp/scripts.txt -r /tmp/events.txt \
 && rm -rf /var/lib/apt/lists/* /tmp/*.txt
ENV PYTHONPATH=/opt/orthanc-scripts
COPY *.py /etc/orthanc/scripts/
COPY dicom_events /etc/orthanc/scripts/dicom_events

LABEL org.opencontainers.image.title="orthanc-scripts" \
      org.opencontainers.image.description="Orthanc with scripts that can be trusted with patients' images" \
      org.opencontainers.image.licenses="AGPL-3.0-or-later" \
      org.opencontainers.image.version="0.2.0"

# Whether Orthanc answers HTTP at all, also with 401. A script that is idle is no reason to start Orthanc again.
# With another port or with TLS, set ORTHANC_HEALTH_URL.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["python3", "/etc/orthanc/healthcheck.py"]
COPY examples/compose/healthcheck.py /etc/orthanc/healthcheck.py

# orthancteam/orthanc has the user orthanc, but runs as root unless it is told otherwise. jodogne/orthanc-python has no user, and the
# folder of its archive, a volume, is root's.
ARG RUN_AS=root
RUN install -d -o "${RUN_AS}" -g "${RUN_AS}" /var/lib/orthanc/db
USER ${RUN_AS}
