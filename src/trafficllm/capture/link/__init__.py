"""Link layers and tunnels: where the network layer begins."""
