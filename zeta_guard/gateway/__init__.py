"""The gateway: who may pass to a protected service, what the service hears about them, and the way there and back."""
