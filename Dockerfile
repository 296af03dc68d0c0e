# Orthanc with the scripts in /etc/orthanc/scripts, and the Python packages that they use.
#   docker build -t orthanc-scripts .
#   docker build -t orthanc-scripts --build-arg BASE=orthancteam/orthanc:latest .
# Which script runs is for your configuration to say: "PythonScript": "/etc/orthanc/scripts/auto_forward_modality.py".
ARG BASE=jodogne/orthanc-python:latest
# hadolint ignore=DL3006
FROM ${BASE}
# Both bases are Debian. The first comes without pip, and its Python belongs to the system: so the packages get a folder of
# their own. Any pip will do, hence no version.
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
