"""The service around the model: REST and gRPC in front, a Redis queue between, GPU workers behind."""
