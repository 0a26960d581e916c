# TrafficLLM on CPU, from the lock. No machine of ours had a builder, so this file has not been built yet; the commands in it are those of the
# Makefile, which are run daily.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/trafficllm
ENV PATH=/opt/trafficllm/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.lock requirements-test.lock constraints.txt pyproject.toml README.md LICENSE NOTICE ./
ARG TORCH=torch==2.13.0
RUN pip install --require-hashes --no-deps -r requirements.lock && pip install "$TORCH"
# The four packages of the extra `serve` that the program does not need otherwise, with their hashes, out of the second lock.
RUN python - <<'PICK' > serve.lock
import re
from pathlib import Path
blocks = re.split(r"\n(?=[a-z0-9])", Path("requirements-test.lock").read_text())
print("\n".join(block for block in blocks if re.match(r"(fastapi|starlette|uvicorn|python-multipart|prometheus-client)==", block)))
PICK
RUN pip install --require-hashes --no-deps -r serve.lock
COPY src src
RUN pip install --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 trafficllm
COPY --from=build /opt/trafficllm /opt/trafficllm
ENV PATH=/opt/trafficllm/bin:$PATH OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE TZ=UTC
USER trafficllm
WORKDIR /home/trafficllm
RUN trafficllm --version
ENTRYPOINT ["trafficllm"]
CMD ["--help"]
