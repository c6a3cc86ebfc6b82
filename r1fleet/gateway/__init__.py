"""The gateway: Caddy before the engine, with tokens and TLS (docs/gateway.md)."""
