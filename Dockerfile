# One image for every role: `farebox worker` by default, any other command by name.
FROM python:3.13-slim

# TLS trusts what the operating system trusts, so its certificates must be there.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /srv/farebox farebox

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt ".[worker]"

ENV PYTHONUNBUFFERED=1
USER farebox
WORKDIR /srv/farebox
STOPSIGNAL SIGTERM
ENTRYPOINT ["farebox"]
CMD ["worker"]
