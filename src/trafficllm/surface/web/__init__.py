"""The page at `/` of `trafficllm serve`, and the paths that only it asks for."""
