"""The gRPC services of a controller, one module a service or noun group. They translate; the core decides."""
