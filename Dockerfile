# The package with its demo, on the CPU; with `--build-arg EXTRA=cuda` with NVIDIA's libraries for a GPU.
#   docker build -t tf-robustcomp .
#   docker build -t tf-robustcomp:cuda --build-arg EXTRA=cuda .
#   docker run --rm -v "$PWD/demo-out:/work/demo-out" tf-robustcomp
#   docker run --rm --gpus all tf-robustcomp:cuda python -m tf_robustcomp.bound --data digits
FROM python:3.11-slim-bookworm

# "cpu", or the name of an extra of setup.cfg
ARG EXTRA=cpu

RUN useradd --uid 1000 --create-home user
WORKDIR /src
COPY setup.cfg pyproject.toml requirements.lock README.md LICENSE ./
COPY flags_configs flags_configs
COPY tf_robustcomp tf_robustcomp
RUN if [ "$EXTRA" = cpu ]; then target=.; else target=".[$EXTRA]"; fi \
  && pip install --no-cache-dir --constraint requirements.lock "$target"

WORKDIR /work
RUN chown user /work
USER 1000
ENV TF_CPP_MIN_LOG_LEVEL=3
CMD ["robustcomp", "demo"]
