"""`python -m trafficllm`."""

from trafficllm.surface.cli.main import main

main()
