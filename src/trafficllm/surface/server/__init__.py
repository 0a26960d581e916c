"""`trafficllm serve`: the commands over HTTP."""
