"""What a network's layers respond to, and whether its class activation map can be trusted."""
