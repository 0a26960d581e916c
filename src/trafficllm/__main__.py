"""`python -m trafficllm`."""

from trafficllm.surface.cli import main

main()
