"""`import trafficllm`: functions and a scikit-learn estimator."""
